//! Verbs that work on the data directory: init, serve, restore, doctor, and what to do next.

use super::client::{Client, Failure};
use super::words::Serve;
use crate::serve::run;
use crate::store::{migrate, people, sqlite};
use crate::wire::url::Url;
use std::fs;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

pub fn init(dir: &Path) -> Result<(), Failure> {
    run::init(dir)?;
    let dir = dir.display();
    println!("{dir} is ready. Next:");
    println!("  bootserver -d {dir} key new --group default --out agent.key");
    println!("  bootserver -d {dir} user add NAME --role admin");
    println!("  bootserver -d {dir} serve --listen 0.0.0.0:8080");
    Ok(())
}

pub fn serve(dir: &Path, words: &Serve) -> Result<(), Failure> {
    for (option, url) in [("--public-url", &words.public_url), ("--pages-url", &words.pages_url)] {
        if let Some(url) = url {
            Url::parse(url).map_err(|why| Failure::Usage(format!("{option} {why}")))?;
        }
    }
    let options = run::Options {
        dir: dir.to_path_buf(),
        listen: words.listen.clone(),
        pages: words.pages,
        pages_url: words.pages_url.clone(),
        tls: words.tls_cert.clone().zip(words.tls_key.clone()),
        proxies: words.behind_proxy.clone(),
        public_url: words.public_url.clone(),
        allow_unsigned: words.allow_unsigned,
    };
    Ok(run::serve(options)?)
}

/// Puts a backup in place of the database. The old one is kept beside it.
pub fn restore(dir: &Path, file: &Path) -> Result<(), Failure> {
    if !dir.exists() {
        run::init(dir)?;
    }
    let _lock = run::lock(dir).map_err(|why| format!("{why}: stop it first"))?;
    let connection = sqlite::open(file).map_err(|error| error.to_string())?;
    let sound: String = connection
        .query_row("PRAGMA quick_check", [], |row| row.get(0))
        .map_err(|error| format!("{}: {error}", file.display()))?;
    let schema = migrate::found(&connection).map_err(|error| error.to_string())?;
    if sound != "ok" || !(1..=migrate::WANTED).contains(&schema) {
        return Err(format!("{} is no backup of this bootserver: {sound}, schema {schema}", file.display()).into());
    }
    drop(connection);
    let (database, new) = (run::database(dir), dir.join("restore.tmp"));
    let said = |error: std::io::Error| format!("cannot write {}: {error}", new.display());
    let _ = fs::remove_file(&new);
    let mut from = fs::File::open(file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    let mut to = fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(&new).map_err(said)?;
    std::io::copy(&mut from, &mut to).map_err(said)?;
    to.sync_all().map_err(said)?;
    let old = dir.join("before-restore.db");
    if database.exists() {
        // What is in the old one's log goes into it, so that one file is all of it.
        let connection = sqlite::open(&database).map_err(|error| error.to_string())?;
        let _ = connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)");
        drop(connection);
        fs::rename(&database, &old).map_err(said)?;
    }
    for ending in ["-wal", "-shm"] {
        let _ = fs::remove_file(format!("{}{ending}", database.display()));
    }
    fs::rename(&new, &database).map_err(said)?;
    // Whoever was logged in when the backup was made may have been let in no longer since.
    let connection = sqlite::open(&database).map_err(|error| error.to_string())?;
    migrate::migrate(&connection, |text| println!("{text}")).map_err(|error| error.to_string())?;
    sqlite::transact(&connection, people::end_sessions).map_err(|error| error.to_string())?;
    drop(connection);
    println!("restored {}; what was there is in {}", file.display(), old.display());
    println!("packages are not in a backup: they stay as they are in {}", dir.join("packages").display());
    Ok(())
}

/// What to do next, for somebody who typed nothing more.
pub fn next_step(dir: &Path, client: &Client) -> String {
    let name = dir.display();
    if !run::database(dir).exists() {
        return format!("nothing is set up in {name}. Next: bootserver -d {name} init");
    }
    if !client.is_running() {
        return format!("no server runs on {name}. Next: bootserver -d {name} serve --listen 0.0.0.0:8080");
    }
    let count = |list: &str, query: &[(&str, &str)]| {
        client.get(list, query).ok().and_then(|found| found.as_array().map(Vec::len)).unwrap_or(0)
    };
    let pending = count("hosts", &[("filter", "state=pending")]);
    let (hosts, keys) = (count("hosts", &[]), count("keys", &[]));
    let next = match (keys, hosts, pending) {
        (0, 0, _) => format!("no key yet. Next: bootserver -d {name} key new --group default --out agent.key"),
        (_, 0, _) => "no host has reported. Next, on a host: \"key_file\" and \"svrlist\" in bootagent.json, then \
            bootagent report"
            .to_string(),
        (_, _, 1..) => {
            format!("{pending} hosts wait for a decision. Next: bootserver -d {name} host list state=pending")
        }
        _ if count("releases", &[]) == 0 => {
            format!("{hosts} hosts, no release. Next: bootserver -d {name} release add AGENT VERSION --file PACKAGE")
        }
        _ => format!("{hosts} hosts. See bootserver -d {name} host list, job list, events --follow"),
    };
    format!("a server runs on {name}: {next}")
}

/// Looks at everything that can be wrong; 1 when something is.
pub fn doctor(dir: &Path, client: &Client) -> Result<(), Failure> {
    let mut faults = 0;
    let mut tell = |good: bool, text: String| {
        println!("{} {text}", if good { "ok   " } else { "FAULT" });
        faults += u32::from(!good);
    };
    let database = run::database(dir);
    if !database.exists() {
        tell(false, format!("{} has no database: bootserver -d {} init", dir.display(), dir.display()));
        return Err(Failure::Failed("1 fault".to_string()));
    }
    for (path, what) in [(dir.to_path_buf(), "the data directory"), (database.clone(), "the database")] {
        let mode = fs::metadata(&path).map_or(0o777, |meta| meta.mode()) & 0o777;
        tell(mode & 0o077 == 0, format!("{what} is closed to others: {} is {mode:o}", path.display()));
    }
    check_database(&database, &mut tell);
    let running = client.is_running();
    tell(running, if running { "the server answers".into() } else { "the server does not run".to_string() });
    let temporary = |entry: &fs::DirEntry| entry.path().extension().is_some_and(|ending| ending == "tmp");
    let left = fs::read_dir(dir.join("packages")).map(|list| list.flatten().filter(temporary).count()).unwrap_or(0);
    tell(left == 0, format!("{left} uploads were broken off and left in packages/*.tmp"));
    if running {
        for (state, good) in [("pending", true), ("conflict", false)] {
            let filter = format!("state={state}");
            let found = client.get("hosts", &[("filter", filter.as_str())])?.as_array().map_or(0, Vec::len);
            tell(good || found == 0, format!("{found} hosts are {state}"));
        }
    }
    match faults {
        0 => Ok(()),
        1 => Err(Failure::Failed("1 fault".to_string())),
        _ => Err(Failure::Failed(format!("{faults} faults"))),
    }
}

fn check_database(database: &Path, tell: &mut dyn FnMut(bool, String)) {
    let connection = match sqlite::open(database) {
        Ok(connection) => connection,
        Err(error) => return tell(false, error.to_string()),
    };
    let text =
        |sql: &str| connection.query_row(sql, [], |row| row.get::<_, String>(0)).unwrap_or_else(|e| e.to_string());
    let sound = text("PRAGMA quick_check");
    tell(sound == "ok", format!("the database is sound: {sound}"));
    match migrate::found(&connection) {
        Ok(found) => tell(found == migrate::WANTED, format!("its schema is {found}, wanted {}", migrate::WANTED)),
        Err(error) => tell(false, error.to_string()),
    }
    let missing = "SELECT count(*) FROM artifacts WHERE url IS NULL";
    let artifacts: i64 = connection.query_row(missing, [], |row| row.get(0)).unwrap_or(0);
    let packages = database.with_file_name("packages");
    let files = fs::read_dir(&packages).map(|list| list.flatten().count()).unwrap_or(0);
    tell(files > 0 || artifacts == 0, format!("{artifacts} packages of releases, {files} files in packages/"));
    let keys = text("SELECT CAST(count(*) AS TEXT) FROM keys WHERE revoked IS NULL");
    tell(keys != "0", format!("{keys} keys are valid (without one, hosts are taken with serve --allow-unsigned only)"));
}
