//! Packages that somebody removes or replaces by hand: status says what the host has, and an install puts it right.

mod util;

use std::fs;
use std::process::Command;

use util::*;

/// An installed agent, and how people change its package.
struct Change<'a> {
    name: &'a str,
    /// The package that a job has installed, of version 2.0.
    package: &'a Package,
    /// That version in the words of the package manager.
    native: &'a str,
    /// Commands, and the version that they leave; empty: nothing.
    commands: &'a [(&'a [&'a str], &'a str)],
}

/// Has each change shown in status and in reports, and put right by the job given once more.
fn is_told_and_put_right(server: &Server, host: &Host, change: &Change) {
    let Change { name, package, .. } = change;
    let trouble = |status: &miniserde::json::Value| {
        let troubles = items(status, "troubles").iter().map(|trouble| text(trouble, "").to_string());
        troubles.into_iter().find(|text| text.contains(name))
    };
    host.does(server, &install(server, &format!("{name}-0"), name, package), 0);
    for (number, (words, found)) in change.commands.iter().enumerate() {
        assert_eq!(host.wait_running(name).version, "2.0");
        by_hand(words);
        host.wait_seen(name, &format!("to show what {words:?} has left"), |agent| agent.version == *found);
        let shown = if found.is_empty() { "nothing" } else { found };
        let told = trouble(&host.status().expect("the daemon answers")).unwrap_or_default();
        assert!(told.contains(&format!("want {}, got {shown}", change.native)), "{words:?}: {told}");
        let of_one = host.cli(&["status", name]).out;
        assert!(of_one.contains(&told), "{of_one}");
        host.ok(&["report"]);
        assert_eq!(server.statuses().last().and_then(&trouble).as_ref(), Some(&told));
        if !found.is_empty() {
            // This changes nothing of it.
            host.does(server, &Job::new(&format!("{name}-r{number}"), "restart", name), 0);
            assert_eq!(host.wait_running(name).version, *found);
            assert_eq!(trouble(&host.status().expect("the daemon answers")), Some(told));
        }
        host.does(server, &install(server, &format!("{name}-{}", number + 1), name, package), 0);
        host.wait("the trouble to be over", || host.status().is_some_and(|status| trouble(&status).is_none()));
    }
    host.does(server, &Job::new(&format!("{name}-u"), "uninstall", name), 0);
}

#[test]
fn a_deb_that_somebody_has_changed() {
    if lacks_root() || lacks("dpkg-deb") || lacks("dpkg") {
        return;
    }
    let name = unique_name("batest-behind");
    let package_name = format!("{name}-pkg");
    let _purge = Purge(&["dpkg", "--force-remove-reinstreq", "--purge"], package_name.clone());
    let server = Server::new();
    let mut host = Host::with(&server);
    host.env("BOOTAGENT_LOCK_SECS", "0.2");
    host.start();
    let [one, two, three] = ["1:0.9-1", "2.0", "3.0-1"].map(|version| {
        let package = deb(&host, &package_name, version, &borrowed(&host_files(&name, version, &staying("deb"))), &[]);
        let path = host.path(&format!("{}.deb", version.replace(':', "_")));
        fs::write(&path, &package.bytes).expect("the host's directory can be written");
        (package, path.display().to_string())
    });
    let commands = [
        (&["dpkg", "-r", &package_name][..], ""),
        (&["dpkg", "-i", &three.1][..], "3.0-1"),
        (&["dpkg", "-i", &one.1][..], "1:0.9-1"),
        (&["dpkg", "-P", &package_name][..], ""),
    ];
    let change = Change { name: &name, package: &two.0, native: "2.0", commands: &commands };
    is_told_and_put_right(&server, &host, &change);
}

#[test]
fn what_the_job_of_another_agent_has_left_is_not_said_to_be_done_by_hand() {
    if lacks_root() || lacks("dpkg-deb") || lacks("dpkg") {
        return;
    }
    let name = unique_name("batest-shared");
    let [package_name, other] = ["pkg", "b"].map(|end| format!("{name}-{end}"));
    let _purge = Purge(&["dpkg", "--force-remove-reinstreq", "--purge"], package_name.clone());
    let server = Server::new();
    let mut host = Host::with(&server);
    host.env("BOOTAGENT_LOCK_SECS", "0.2");
    host.start();
    let [one, two] = ["1.0", "2.0"].map(|version| {
        deb(&host, &package_name, version, &borrowed(&host_files(&name, version, &staying("deb"))), &[])
    });
    let troubles = || {
        let status = host.status().expect("the daemon answers");
        let texts = items(&status, "troubles").iter().map(|trouble| text(trouble, "").to_string());
        texts.collect::<Vec<String>>()
    };
    host.does(&server, &install(&server, "s1", &name, &one), 0);
    let definition = definition(&other, "2.0", "", &[("exec", &format!("[\"/usr/bin/{name}\"]"))]);
    host.does(&server, &install(&server, "s2", &other, &two).set("definition", &definition), 0);
    host.wait_seen(&name, "to show what is there", |agent| agent.version == "2.0");
    assert_eq!(troubles(), [] as [String; 0]);
    host.does(&server, &Job::new("s3", "uninstall", &other), 0);
    let told = format!("its package {package_name} has changed since a job installed it, ");
    host.wait("the version to be told", || troubles().iter().any(|text| text.contains(&told)));
    assert!(troubles().iter().all(|text| text.ends_with(": want 1.0, got 2.0")), "{:?}", troubles());
    host.does(&server, &install(&server, "s4", &name, &one), 0);
    host.wait("the trouble to be over", || troubles().is_empty());
    host.does(&server, &Job::new("s5", "uninstall", &name), 0);
}

#[test]
fn an_rpm_that_somebody_has_changed() {
    if lacks_root() || lacks("rpmbuild") || lacks("rpm") {
        return;
    }
    let name = unique_name("batest-behind-rpm");
    let package_name = format!("{name}-pkg");
    let _purge = Purge(&["rpm", "-e", "--allmatches"], package_name.clone());
    let server = Server::new();
    let mut host = Host::with(&server);
    host.env("BOOTAGENT_LOCK_SECS", "0.2");
    host.start();
    let [one, two, three] = ["1.0", "2.0", "3.0"].map(|version| {
        let package = rpm(&host, &package_name, version, &borrowed(&host_files(&name, version, &staying("rpm"))));
        let path = host.path(&format!("{version}.rpm"));
        fs::write(&path, &package.bytes).expect("the host's directory can be written");
        (package, path.display().to_string())
    });
    let commands = [
        (&["rpm", "-e", &package_name][..], ""),
        (&["rpm", "-U", "--nodeps", &three.1][..], "3.0-1"),
        (&["rpm", "-U", "--nodeps", "--oldpackage", &one.1][..], "1.0-1"),
        (&["rpm", "-i", "--nodeps", "--force", &one.1][..], "2.0-1 1.0-1"),
    ];
    let change = Change { name: &name, package: &two.0, native: "2.0-1", commands: &commands };
    is_told_and_put_right(&server, &host, &change);
}

#[test]
fn a_tar_that_somebody_has_removed() {
    let server = Server::new();
    let mut host = Host::with(&server);
    host.start();
    let package = tarball(&host, "web", "2.0", &staying("tar"), &[]);
    let [version, all] = ["web/2.0", "web"].map(|dir| host.path("state/packages").join(dir).display().to_string());
    let commands = [(&["rm", "-r", &version][..], ""), (&["rm", "-r", &all][..], "")];
    let change = Change { name: "web", package: &package, native: "2.0", commands: &commands };
    is_told_and_put_right(&server, &host, &change);
    // While no daemon was there.
    host.does(&server, &install(&server, "web-3", "web", &package), 0);
    host.end("TERM");
    by_hand(commands[0].0);
    host.start();
    host.wait_seen("web", "to show that its package is gone", |agent| agent.version.is_empty());
}

#[test]
fn an_inventory_of_many_agents_is_whole() {
    if lacks_root() || lacks("dpkg-query") {
        return;
    }
    const AGENTS: usize = 250;
    let mut host = Host::new();
    // The first answer has all.
    host.set("checksecs", "1000");
    let ran = run(Command::new("dpkg-query").args(["-W", "-f", "${Version}", "dpkg"])).expect("it ends");
    for number in 0..AGENTS {
        let name = format!("agent-whose-answer-is-long-{number}");
        host.agent(&name, "exec sleep 1000", &[("autostart", "false")]);
        let digest = format!("SHA256:{}", "0".repeat(64));
        let package = format!(
            "{{\"format\":\".deb\",\"package\":\"dpkg\",\"version\":\"0\",\"digest\":\"{digest}\",\"file\":\"\",\"native\":\"0\"}}"
        );
        fs::create_dir_all(host.path("state/agents")).expect("it can be made");
        let record = format!("{{\"name\":\"{name}\",\"package\":{package}}}");
        fs::write(host.path(&format!("state/agents/{name}.json")), record).expect("it can be written");
    }
    host.start();
    host.wait("an answer of each agent", || {
        let troubles = host.status().map(|status| items(&status, "troubles").len());
        troubles == Some(AGENTS)
    });
    let status = host.status().expect("the daemon answers");
    assert!(items(&status, "agents").iter().all(|agent| text(agent, "version") == ran.out.trim()));
}

#[test]
fn an_inventory_that_hangs_is_ended_by_the_next_daemon() {
    let mut host = Host::new();
    host.start();
    for end in ["kill", "reexec"] {
        let mut hangs = Command::new("sleep").arg("1000").spawn().expect("it can be started");
        host.write("run/tool-.inventory.pid", &noted(hangs.id(), &boot_id()));
        if end == "kill" {
            host.kill9();
            host.start();
        } else {
            host.ok(&["reexec"]);
        }
        host.wait("the inventory to be ended", || hangs.try_wait().is_ok_and(|status| status.is_some()));
        assert!(!host.path("run/tool-.inventory.pid").exists());
    }
}
