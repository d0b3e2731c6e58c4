//! Everything that can be wrong, looked at.

use super::client::{Client, Failure};
use crate::serve::run;
use crate::store::{migrate, sqlite};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Looks at everything that can be wrong; 1 when something is.
///
/// # Errors
/// When something is wrong; what it is was printed.
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
    let name = dir.display();
    let stopped = format!("the server does not run: bootserver -d {name} serve");
    tell(running, if running { "the server answers".to_string() } else { stopped });
    let temporary = |entry: &fs::DirEntry| entry.path().extension().is_some_and(|ending| ending == "tmp");
    let left = fs::read_dir(dir.join("packages")).map(|list| list.flatten().filter(temporary).count()).unwrap_or(0);
    let next = if left == 0 { "" } else { ": remove them while no upload is under way" };
    tell(left == 0, format!("{left} uploads were broken off and left in packages/*.tmp{next}"));
    if running {
        let counts = client.get("counts", &[])?;
        let count = |state: &str| counts[state].as_i64().unwrap_or(0);
        tell(true, format!("{} hosts are known, {} of them pending", count("hosts"), count("pending")));
        tell(count("conflict") == 0, format!("{} hosts are in conflict: host list state=conflict", count("conflict")));
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
    let admins = text("SELECT CAST(count(*) AS TEXT) FROM users WHERE role = 'admin' AND disabled IS NULL");
    tell(true, format!("{admins} admins can log in to the pages"));
    let ending = "SELECT CAST(count(*) AS TEXT) FROM tokens WHERE revoked IS NULL AND expires - unixepoch() BETWEEN 0 AND 604800";
    let ending = text(ending);
    tell(ending == "0", format!("{ending} tokens end within 7 days: bootserver token list"));
    let failing = text("SELECT CAST(count(*) AS TEXT) FROM webhooks WHERE failures > 2");
    tell(failing == "0", format!("{failing} webhooks do not take their messages: bootserver webhook list"));
    let next =
        if keys == "0" { ": bootserver key new --group default --out FILE, or serve --allow-unsigned" } else { "" };
    tell(keys != "0", format!("{keys} keys are valid{next}"));
}
