//! `release add`, `release list`, `release withdraw`.

use super::client::{Client, Failure};
use super::print::cell;
use super::verbs::show;
use super::words::Release;
use serde_json::{json, Value as Json};
use std::path::Path;

/// Does what a command says about releases.
///
/// # Errors
/// When a file cannot be read, or what the server says against it.
pub fn execute(release: &Release, client: &Client, as_json: bool) -> Result<(), Failure> {
    match release {
        Release::Add { agent, version, file, url, checksum, arch, os, sig, definition, startsecs } => {
            let read = |path: &Path| {
                std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
            };
            let sig = sig.as_deref().map(read).transpose()?;
            let definition = match definition.as_deref() {
                None => None,
                Some(path) => Some(
                    serde_json::from_str::<Json>(&read(path)?)
                        .map_err(|error| format!("{}: {error}", path.display()))?,
                ),
            };
            let mut body = json!({ "agent": agent, "version": version, "arch": arch, "os": os, "sig": sig,
                "definition": definition, "startsecs": startsecs });
            if let Some(file) = file {
                let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                crate::model::release::check_file_name(agent, name).map_err(Failure::Failed)?;
                let stored = client.upload(file)?;
                (body["sha256"], body["size"], body["name"]) =
                    (stored["sha256"].clone(), stored["size"].clone(), json!(name));
            } else if let (Some(url), Some(checksum)) = (url, checksum) {
                let digest = checksum.trim().trim_start_matches("SHA256:").trim_start_matches("sha256:");
                let name = url.split(['?', '#']).next().unwrap_or_default().rsplit('/').next().unwrap_or_default();
                (body["sha256"], body["url"], body["name"]) = (json!(digest), json!(url), json!(name));
            }
            client.post("releases", &body)?;
            println!("release {agent} {version}: SHA256:{}", cell(&body["sha256"]));
        }
        Release::List => {
            let found = client.get("releases", &[])?;
            show(&found, as_json, &["AGENT", "VERSION", "STATE", "PACKAGES"], |release| {
                let state = if release["withdrawn"].is_null() { "ready" } else { "withdrawn" };
                let one = |a: &Json| [&a["name"], &a["arch"], &a["os"]].map(cell).join(" ").replace(" -", "");
                let packages: Vec<String> = release["artifacts"].as_array().into_iter().flatten().map(one).collect();
                vec![cell(&release["agent"]), cell(&release["version"]), state.to_string(), packages.join(", ")]
            });
        }
        Release::Withdraw { agent, version } => {
            client.post("releases/withdraw", &json!({ "agent": agent, "version": version }))?;
            println!("release {agent} {version} is withdrawn: no new job takes it");
        }
    }
    Ok(())
}
