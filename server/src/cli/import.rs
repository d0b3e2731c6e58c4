//! Job files of the smallest server (`HOST/*.json` and `all/*.json`), given as jobs of this one.

use super::client::{Client, Failure};
use serde_json::{json, Map, Value as Json};
use std::fs;
use std::path::{Path, PathBuf};

/// Gives what is in a directory. A file that will not do is told and costs only itself; then the exit code is 1.
///
/// # Errors
/// When a directory cannot be read, or something will not do; what that is was printed.
pub fn run(directory: &Path, client: &Client) -> Result<(), Failure> {
    let list = |path: &Path| -> Result<Vec<PathBuf>, Failure> {
        let entries = fs::read_dir(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        let mut found: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        found.sort();
        Ok(found)
    };
    let (mut given, mut bad) = (0, 0);
    for host in list(directory)?.into_iter().filter(|path| path.is_dir()) {
        let name = host.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_string();
        let select = if name == "all" { "state=accepted".to_string() } else { format!("host={name}") };
        for file in list(&host)?.into_iter().filter(|path| path.extension().is_some_and(|ending| ending == "json")) {
            match read(&file).and_then(|jobs| give(client, &jobs, &select)) {
                Ok(count) => given += count,
                Err(why) => {
                    eprintln!("bootserver: {}: {why}", file.display());
                    bad += 1;
                }
            }
        }
    }
    println!("{given} jobs given");
    match bad {
        0 => Ok(()),
        _ => Err(Failure::Failed(format!("{bad} files were not taken, see above"))),
    }
}

fn read(file: &Path) -> Result<Vec<Map<String, Json>>, String> {
    let text = fs::read_to_string(file).map_err(|error| error.to_string())?;
    let object = |value: Json| match value {
        Json::Object(object) => Ok(object),
        _ => Err("want a job or an array of jobs".to_string()),
    };
    match serde_json::from_str::<Json>(&text).map_err(|error| error.to_string())? {
        Json::Array(list) => list.into_iter().map(object).collect(),
        one => Ok(vec![object(one)?]),
    }
}

fn give(client: &Client, jobs: &[Map<String, Json>], select: &str) -> Result<u32, String> {
    for job in jobs {
        let text = |key: &str| job.get(key).and_then(Json::as_str).unwrap_or_default().to_string();
        let (action, agent) = (text("action"), text("name"));
        let said = |failure: Failure| match failure {
            Failure::Failed(text) | Failure::Usage(text) | Failure::NotRunning(text) => text,
        };
        let mut version = None;
        if let Some(url) = job.get("url").and_then(Json::as_str) {
            let name = url.rsplit('/').next().unwrap_or_default();
            let wanted = text("version");
            let wanted = if wanted.is_empty() { name.to_string() } else { wanted };
            let digest = text("checksum").trim_start_matches("SHA256:").to_string();
            let release = json!({ "agent": agent, "version": wanted, "name": name, "url": url, "sha256": digest,
                "sig": job.get("signature"), "definition": job.get("definition"), "startsecs": job.get("startsecs") });
            client.post("releases", &release).map_err(said)?;
            version = Some(wanted);
        }
        let kept = ["envs", "limits", "svrlist", "step", "window", "expires", "startsecs", "purge"];
        let body: Map<String, Json> =
            job.iter().filter(|(key, _)| kept.contains(&key.as_str())).map(|(k, v)| (k.clone(), v.clone())).collect();
        let request = json!({ "action": action, "agent": agent, "version": version, "select": select, "body": body });
        client.post("jobs", &request).map_err(said)?;
    }
    Ok(u32::try_from(jobs.len()).unwrap_or(0))
}
