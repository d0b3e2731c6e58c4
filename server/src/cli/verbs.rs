//! Verbs that ask the running server.

use super::client::{Client, Failure};
use super::print::{agents, ago, cell, pairs, table, when};
use super::words::{Command, Given, Group, Host, Job, Key};
use crate::serve::manage::{self, NewKey};
use crate::serve::{clock, run};
use crate::store::sqlite;
use crate::wire::url::encode;
use serde_json::{json, Map, Value as Json};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

type Done = Result<(), Failure>;

pub fn execute(command: &Command, dir: &Path, client: &Client, as_json: bool) -> Done {
    match command {
        Command::Key(key) => keys(key, dir, client, as_json),
        Command::Group(group) => groups(group, dir, client, as_json),
        Command::Host(host) => hosts(host, client, as_json),
        Command::Release(release) => super::releases::execute(release, client, as_json),
        Command::Job(job) => jobs(job, client, as_json),
        Command::Events { follow, lines } => events(client, *follow, *lines, as_json),
        Command::Audit { lines } => {
            let found = client.get("audit", &[("limit", &lines.to_string())])?;
            show(&found, as_json, &["TIME", "WHO", "ACTION", "OBJECT", "BEFORE", "AFTER"], |line| {
                let time = when(&line["time"], clock::now());
                let rest = ["who", "action", "object", "before", "after"].map(|key| cell(&line[key]));
                [vec![time], rest.to_vec()].concat()
            });
            Ok(())
        }
        Command::Backup { file } => backup(file, dir, client),
        Command::Import { directory } => super::import::run(directory, client),
        _ => Err(Failure::Usage("this verb works on the directory".to_string())),
    }
}

/// Prints a list as JSON or as a table.
pub fn show(found: &Json, as_json: bool, headings: &[&str], row: impl Fn(&Json) -> Vec<String>) {
    if as_json {
        println!("{found}");
        return;
    }
    let rows: Vec<Vec<String>> = found.as_array().into_iter().flatten().map(row).collect();
    table(headings, &rows);
}

fn keys(key: &Key, dir: &Path, client: &Client, as_json: bool) -> Done {
    match key {
        Key::New { group, auto_accept, host, out } => {
            if let Some(out) = out.as_ref().filter(|out| out.exists()) {
                return Err(Failure::Failed(format!("{} is there already", out.display())));
            }
            let wanted = NewKey { group: group.clone(), host: host.clone(), auto_accept: *auto_accept };
            let (id, secret) = new_key(dir, client, &wanted)?;
            let Some(out) = out else {
                if as_json {
                    println!("{}", json!({ "id": id, "key": secret }));
                    return Ok(());
                }
                println!("{secret}");
                eprintln!("key {id} of group {group}: put this line into the host's key_file (root only, 0600)");
                return Ok(());
            };
            let said = |error: std::io::Error| format!("cannot write {}: {error}", out.display());
            let mut file =
                std::fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(out).map_err(said)?;
            writeln!(file, "{secret}").map_err(said)?;
            println!("key {id} of group {group} is in {}: the hosts' key_file (root only, 0600)", out.display());
            println!("whoever has it can speak for any host of the group");
        }
        Key::List => {
            let found = client.get("keys", &[])?;
            show(
                &found,
                as_json,
                &["KEY", "GROUP", "HOST", "BOUND TO", "AUTO-ACCEPT", "HOSTS", "MADE", "REVOKED"],
                |key| {
                    let plain =
                        ["id", "group", "host", "bound_sn", "auto_accept", "hosts"].map(|name| cell(&key[name]));
                    let now = clock::now();
                    let revoked = if key["revoked"].is_null() { "-".into() } else { ago(&key["revoked"], now) };
                    [plain.to_vec(), vec![ago(&key["created"], now), revoked]].concat()
                },
            );
        }
        Key::Revoke { id } => {
            let done = client.post("keys/revoke", &json!({ "id": id }))?;
            println!("key {id} is revoked; {} hosts can no longer report until they have another", done["hosts"]);
        }
    }
    Ok(())
}

/// Asks the server for a key, or makes it in the directory where none runs.
fn new_key(dir: &Path, client: &Client, wanted: &NewKey) -> Result<(String, String), Failure> {
    if client.is_running() {
        let NewKey { group, host, auto_accept } = wanted;
        let made = client.post("keys", &json!({ "group": group, "host": host, "auto_accept": auto_accept }))?;
        return Ok((cell(&made["id"]), cell(&made["key"])));
    }
    let key = in_directory(dir, |tx| manage::new_key(tx, wanted, &run::local()))?;
    Ok((key.id, key.secret))
}

/// Works on a data directory on which no server runs.
///
/// # Errors
/// When its database cannot be opened, or the work fails.
pub fn in_directory<T>(
    dir: &Path,
    work: impl FnOnce(&mut dyn crate::store::Tx) -> Result<T, crate::store::Error>,
) -> Result<T, Failure> {
    let connection = run::open(dir, |text| eprintln!("{text}"))?;
    sqlite::transact(&connection, work).map_err(|error| Failure::Failed(error.to_string()))
}

fn groups(group: &Group, dir: &Path, client: &Client, as_json: bool) -> Done {
    match group {
        Group::New { name } => {
            match client.is_running() {
                true => drop(client.post("groups", &json!({ "name": name }))?),
                false => in_directory(dir, |tx| manage::new_group(tx, name, &run::local()))?,
            }
            println!("group {name} is made; its hosts come with a key: bootserver key new --group {name} --out FILE");
        }
        Group::Set { name, settings } => {
            let settings = read_pairs(settings)?;
            client.post("groups/set", &json!({ "name": name, "settings": settings }))?;
            println!("group {name} is changed: bootserver group list");
        }
        Group::List => {
            let found = client.get("groups", &[])?;
            let columns =
                ["name", "hosts", "zone", "window", "lost_after", "retire_after", "replace", "allow_unidentified"];
            let headings =
                ["GROUP", "HOSTS", "ZONE", "WINDOW", "LOST AFTER", "RETIRE AFTER", "REPLACE", "UNIDENTIFIED"];
            show(&found, as_json, &headings, |group| columns.iter().map(|name| cell(&group[*name])).collect());
        }
    }
    Ok(())
}

fn hosts(host: &Host, client: &Client, as_json: bool) -> Done {
    let set = |hosts: &[String], state: &str| -> Done {
        client.post("hosts/state", &json!({ "hosts": hosts, "state": state }))?;
        println!("{}: {state}", hosts.join(", "));
        Ok(())
    };
    match host {
        Host::List { filter } => {
            let found = client.get("hosts", &[("filter", &filter.join(" "))])?;
            let headings = ["HOST", "SN", "GROUP", "STATE", "FRESH", "SEEN", "OS", "VERSION", "AGENTS", "REASON"];
            show(&found, as_json, &headings, |host| {
                let first = ["name", "sn", "group", "state", "freshness"].map(|name| cell(&host[name]));
                let seen = ago(&host["seen"], clock::now());
                let rest =
                    vec![cell(&host["os"]), cell(&host["version"]), agents(&host["agents"]), cell(&host["reason"])];
                [first.to_vec(), vec![seen], rest].concat()
            });
        }
        Host::Show { host } => {
            let found = client.get(&format!("hosts/{}", encode(host)), &[])?;
            if as_json {
                println!("{found}");
            } else {
                show_host(&found);
            }
        }
        Host::Accept { hosts } => set(hosts, "accepted")?,
        Host::Reject { hosts } => set(hosts, "rejected")?,
        Host::Retire { hosts } => set(hosts, "retired")?,
        Host::Pin { hosts, reason } => {
            client.post("hosts/pin", &json!({ "hosts": hosts, "reason": reason }))?;
            println!("{}: pinned; host unpin ends it", hosts.join(", "));
        }
        Host::Unpin { hosts } => {
            client.post("hosts/pin", &json!({ "hosts": hosts }))?;
            println!("{}: not pinned", hosts.join(", "));
        }
        Host::Replace { old, new } => {
            client.post("hosts/replace", &json!({ "old": old, "new": new }))?;
            println!("{new} takes the place of {old}, which is retired");
        }
        Host::Label { host, labels } => {
            client.post("hosts/label", &json!({ "host": host, "labels": read_pairs(labels)? }))?;
            println!("{host}: {}", labels.join(" "));
        }
        Host::Group { host, group } => {
            client.post("hosts/group", &json!({ "host": host, "group": group }))?;
            println!("{host} is in group {group}");
        }
    }
    Ok(())
}

fn show_host(host: &Json) {
    let now = clock::now();
    for key in ["name", "sn", "group", "state", "freshness", "reason", "os", "arch", "version", "key", "peer"] {
        println!("{key:<10} {}", cell(&host[key]));
    }
    println!("{:<10} {}", "labels", pairs(&host["labels"]));
    println!("{:<10} {}", "seen", when(&host["seen"], now));
    for agent in host["agents"].as_array().into_iter().flatten() {
        println!("agent      {} {}", agents(&json!([agent])), cell(&agent["detail"]));
    }
    for job in host["executions"].as_array().into_iter().flatten() {
        let text = ["id", "action", "agent", "state", "reason"].map(|key| cell(&job[key]));
        println!("job        {}", text.join(" "));
    }
    for event in host["events"].as_array().into_iter().flatten() {
        println!("event      {} {}: {}", when(&event["time"], now), cell(&event["kind"]), cell(&event["message"]));
    }
}

fn jobs(job: &Job, client: &Client, as_json: bool) -> Done {
    let (action, given) = match job {
        Job::Install(given) => ("install", given),
        Job::Upgrade(given) => ("upgrade", given),
        Job::Uninstall(given) => ("uninstall", given),
        Job::Start(given) => ("start", given),
        Job::Stop(given) => ("stop", given),
        Job::Restart(given) => ("restart", given),
        Job::Reload(given) => ("reload", given),
        Job::Config(given) => ("config", given),
        Job::List { filter, lines } => {
            let found = client.get("executions", &[("filter", &filter.join(" ")), ("limit", &lines.to_string())])?;
            return show_executions(&found, as_json);
        }
        Job::Show { id } => return show_executions(&client.get(&format!("jobs/{}", encode(id)), &[])?, as_json),
        Job::Cancel { id } => {
            let done = client.post("jobs/cancel", &json!({ "id": id }))?;
            match done["withdrawn"].as_i64() {
                Some(0) => println!("{id} has ended: nothing was withdrawn"),
                _ => println!("{} withdrawn; {} hosts had it and may act on it", done["withdrawn"], done["may_act"]),
            }
            return Ok(());
        }
    };
    if given.agent.is_none() && action != "config" {
        return Err(Failure::Usage(format!("job {action}: want the agent's name")));
    }
    let (agent, version, select) = (&given.agent, &given.version, &given.select);
    let request = json!({ "action": action, "agent": agent.as_deref().unwrap_or_default(), "version": version,
        "select": select, "any_time": given.now, "body": read_body(given)? });
    let done = client.post("jobs", &request)?;
    if as_json {
        println!("{done}");
        return Ok(());
    }
    println!("job {} for {} hosts; each gets it with its next report", cell(&done["id"]), done["hosts"]);
    for (why, count) in done["left_out"].as_object().into_iter().flatten() {
        println!("left out: {count} {why}");
    }
    Ok(())
}

/// The keys of the job that go to hosts.
fn read_body(given: &Given) -> Result<Map<String, Json>, Failure> {
    let mut body = Map::new();
    if given.purge {
        body.insert("purge".to_string(), json!(true));
    }
    if !given.env.is_empty() {
        let mut envs = read_pairs(&given.env)?;
        for value in envs.values_mut() {
            if let Some(path) = value.as_str().and_then(|text| text.strip_prefix('@')) {
                let text = std::fs::read_to_string(path).map_err(|error| format!("cannot read {path}: {error}"))?;
                *value = json!(text.trim_end_matches('\n'));
            }
        }
        body.insert("envs".to_string(), Json::Object(envs));
    }
    if !given.limit.is_empty() {
        let mut limits = read_pairs(&given.limit)?;
        for value in limits.values_mut() {
            // The agent wants counts as numbers and sizes as text.
            if let Some(number) = value.as_str().and_then(|text| text.parse::<i64>().ok()) {
                *value = json!(number);
            }
        }
        body.insert("limits".to_string(), Json::Object(limits));
    }
    if let Some(svrlist) = &given.svrlist {
        body.insert("svrlist".to_string(), json!(svrlist));
    }
    for (key, value) in
        [("step", given.step), ("window", given.window), ("expires", given.expires), ("startsecs", given.startsecs)]
    {
        if let Some(value) = value {
            body.insert(key.to_string(), json!(value));
        }
    }
    Ok(body)
}

fn read_pairs(words: &[String]) -> Result<Map<String, Json>, Failure> {
    let pair = |word: &String| match word.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_string(), json!(value))),
        _ => Err(Failure::Usage(format!("\"{word}\": want KEY=VALUE"))),
    };
    words.iter().map(pair).collect()
}

fn show_executions(found: &Json, as_json: bool) -> Done {
    show(found, as_json, &["ID", "HOST", "ACTION", "AGENT", "STATE", "CODE", "MESSAGE OR REASON"], |execution| {
        let plain = ["id", "host", "action", "agent", "state", "errcode"].map(|name| cell(&execution[name]));
        let message = match execution["message"].as_str() {
            Some(text) if !text.is_empty() && execution["errcode"] != 0 => text.to_string(),
            _ => cell(&execution["reason"]),
        };
        [plain.to_vec(), vec![message]].concat()
    });
    Ok(())
}

fn events(client: &Client, follow: bool, lines: i64, as_json: bool) -> Done {
    let mut found = client.get("events", &[("limit", &lines.to_string())])?;
    if as_json && !follow {
        println!("{found}");
        return Ok(());
    }
    let mut last = 0;
    loop {
        for event in found.as_array().into_iter().flatten() {
            last = event["id"].as_i64().unwrap_or(last);
            if as_json {
                println!("{event}");
            } else {
                let host = cell(&event["host"]);
                println!(
                    "{} {host} {}: {}",
                    when(&event["time"], clock::now()),
                    cell(&event["kind"]),
                    cell(&event["message"])
                );
            }
        }
        if !follow {
            return Ok(());
        }
        if std::io::stdout().flush().is_err() {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_secs(1));
        found = client.get("events", &[("after", &last.to_string())])?;
    }
}

fn backup(file: &Path, dir: &Path, client: &Client) -> Done {
    let file = std::path::absolute(file).map_err(|error| format!("{}: {error}", file.display()))?;
    if client.is_running() {
        client.post("backup", &json!({ "file": file }))?;
    } else {
        in_directory(dir, |_| Ok(()))?;
        let engine = sqlite::Sqlite::start(&run::database(dir)).map_err(|error| error.to_string())?;
        run::write_backup(&engine, &file).map_err(|error| error.to_string())?;
    }
    println!("{} holds every key and every env: keep it as you keep them", file.display());
    println!("packages are not in it: copy {} too", dir.join("packages").display());
    Ok(())
}
