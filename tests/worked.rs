//! The worked definitions of the documentation: they are valid, and run real daemons.

mod util;

use std::fs;
use std::path::Path;

use util::*;

/// The definitions in docs/migrating.md.
fn worked_definitions() -> Vec<String> {
    let blocks = include_str!("../docs/migrating.md").split("\n\n");
    blocks.filter(|block| block.starts_with("    {")).map(String::from).collect()
}

#[test]
fn the_worked_definitions_are_good() {
    let definitions = worked_definitions();
    assert!(definitions.len() >= 12, "only {}", definitions.len());
    for text in definitions {
        let read = bootagent::wire::config::read_definition("migrating.md", text.as_bytes(), false, true);
        assert!(read.is_ok(), "{text}: {read:?}");
    }
}

#[test]
fn worked_definitions_run_real_daemons() {
    if lacks_root() || lacks("nginx") || lacks("zabbix_agentd") || lacks("collectd") {
        return;
    }
    let mut host = Host::new();
    let dir = host.dir.display().to_string();
    host.write(
        "nginx.conf",
        &format!(
            "pid {dir}/nginx.pid; error_log stderr; events {{}} http {{ access_log off; server {{ listen unix:{dir}/web; }} }}"
        ),
    );
    host.write("collectd.conf", &format!("BaseDir \"{dir}\"\nPIDFile \"{dir}/collectd.pid\"\n"));
    // The agent takes none above 32767.
    let port = 20000 + std::process::id() % 12000;
    host.write(
        "zabbix.conf",
        &format!("LogType=console\nServer=127.0.0.1\nListenIP=127.0.0.1\nListenPort={port}\nPidFile=/tmp/bootagent-zabbix-{port}.pid\n"),
    );
    // Each as it is documented, with a configuration of the test, and without a place in /run that may be in use.
    let changes = [
        ("nginx", "\"daemon off;\"]", format!("\"daemon off;\", \"-c\", \"{dir}/nginx.conf\"]")),
        ("collectd", "/usr/sbin/collectd\"]", format!("/usr/sbin/collectd\", \"-C\", \"{dir}/collectd.conf\"]")),
        ("zabbix-agent", "--foreground\"]", format!("--foreground\", \"-c\", \"{dir}/zabbix.conf\"]")),
    ];
    for (name, before, after) in &changes {
        let definition = worked_definitions().into_iter().find(|text| text.contains(&format!("\"{name}\"")));
        let definition = definition.expect("it is documented").replace("\"runtime_directory\": [\"zabbix\"],", "");
        assert!(definition.contains(before), "{definition}");
        host.write(
            &format!("agents.d/{name}.json"),
            &definition.replace(before, after).replace("{ \"name\"", "{ \"startsecs\": 1, \"name\""),
        );
    }
    host.start();
    for (name, ..) in &changes {
        host.wait_seen(name, "to have said that it is ready", |agent| agent.runs() && agent.detail.is_empty());
        outlives_daemons(&mut host, name);
    }
    let pid = host.wait_running("nginx").pid;
    let workers = || {
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        children.split_whitespace().map(String::from).collect::<Vec<_>>()
    };
    host.wait("its workers", || !workers().is_empty());
    let before = workers();
    assert_eq!(host.cli(&["reload", "nginx"]).code, 0);
    host.wait("new workers", || !workers().is_empty() && workers().iter().all(|worker| !before.contains(worker)));
    assert_eq!(host.wait_running("nginx").pid, pid);
    host.write("nginx.conf", "no such directive;");
    assert_eq!(host.cli(&["restart", "nginx"]).code, 1);
    let seen = host.seen("nginx").expect("a status");
    assert!(seen.detail.contains("its prestart exited with status 1"), "{seen:?}");
    assert_eq!(host.cli(&["stop", "--all"]).code, 0);
    assert!(host.agents_processes().is_empty(), "{:?}", host.agents_processes());
    let _ = fs::remove_file(format!("/tmp/bootagent-zabbix-{port}.pid"));
}

#[test]
fn the_worked_definition_of_postgresql_runs_it() {
    let bin = "/usr/lib/postgresql/15/bin";
    if lacks_root() || lacks("runuser") {
        return;
    }
    if !Path::new(bin).join("initdb").exists() {
        skipped("PostgreSQL 15");
        return;
    }
    let mut host = Host::new();
    let data = host.path("pg");
    fs::create_dir(&data).expect("a directory");
    let made = std::process::Command::new("sh")
        .args([
            "-c",
            &format!("chown postgres {0} && runuser -u postgres -- {bin}/initdb -N -A trust -D {0}", data.display()),
        ])
        .output()
        .expect("a shell");
    assert!(made.status.success(), "{made:?}");
    let definition =
        worked_definitions().into_iter().find(|text| text.contains("\"postgresql\"")).expect("it is documented");
    let data = data.display().to_string();
    let mut changed = definition.clone();
    for (before, after) in [
        ("/var/lib/postgresql/15/main", data.clone()),
        ("config_file=/etc/postgresql/15/main/postgresql.conf", format!("unix_socket_directories={data}")),
        ("\"]", "\", \"-c\", \"listen_addresses=\"]".to_string()),
        ("\"runtime_directory\": [\"postgresql\"],", String::new()),
        ("\"-q\"", format!("\"-q\", \"-h\", \"{data}\"")),
        ("\"startsecs\": 60", "\"startsecs\": 1".to_string()),
    ] {
        assert!(changed.contains(before), "{before} in {changed}");
        changed = changed.replacen(before, &after, 1);
    }
    if u64::from_str_radix(&proc_status(std::process::id() as i32, "CapEff"), 16).is_ok_and(|set| set >> 24 & 1 == 0) {
        changed = changed.replace("-900", "900");
    }
    host.write("agents.d/postgresql.json", &changed);
    host.start();
    let pid = host.wait_running("postgresql").pid;
    let is_ready = || {
        let ready = std::process::Command::new("/usr/bin/pg_isready").args(["-q", "-h", &data]).status();
        ready.expect("it is there").success()
    };
    host.wait("it to be ready", is_ready);
    outlives_daemons(&mut host, "postgresql");
    assert_eq!(host.cli(&["reload", "postgresql"]).code, 0);
    assert_eq!(host.wait_running("postgresql").pid, pid);
    host.wait("the reload", || host.read("log/postgresql.log").contains("SIGHUP"));
    assert_eq!(host.cli(&["stop", "postgresql"]).code, 0);
    // Its fast stop ends with a checkpoint; killed children would have made it recover.
    let log = host.read("log/postgresql.log");
    assert!(log.contains("database system is shut down") && !log.contains("terminated by signal"), "{log}");
}
