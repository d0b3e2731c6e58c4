//! The pages of releases, and the form with a package in it.

use super::forms::{again, call};
use super::{frame, problem, read_jobs, refusal, see, text_of, Look};
use crate::pages::params::Params;
use crate::pages::releases::{NewRelease, PackageRow, ReleaseRow, Releases};
use crate::pages::{Pager, LINES};
use crate::serve::door::{self, header, Reply};
use crate::serve::front::Ask;
use crate::serve::upload::{self, Upload};
use crate::store::releases::{self, Release};
use crate::store::{Error, Tx};
use crate::wire::multipart::{Piece, Reader};
use hyper::body::Incoming;
use serde_json::{json, Value as Json};

/// The list of releases.
///
/// # Errors
/// What the engine says.
pub fn list(tx: &mut dyn Tx, look: &Look) -> Result<String, Error> {
    let f = frame(tx, look, "/releases", "Releases")?;
    let mut found = releases::list(tx, None)?;
    found.retain(|release| is_meant(look, release));
    // By agent, the newest of each first.
    found.sort_by(|a, b| (&a.agent, b.created, &b.version).cmp(&(&b.agent, a.created, &a.version)));
    let total = i64::try_from(found.len()).unwrap_or(0);
    let first = usize::try_from(look.params.first()).unwrap_or(0);
    let mut rows = Vec::new();
    for release in found.into_iter().skip(first).take(usize::try_from(LINES).unwrap_or(50)) {
        rows.push(row(tx, release)?);
    }
    let pager = Pager::new(&f, rows.len(), total, false);
    Ok(text_of(&Releases { f, rows, pager }))
}

/// Whether a release is one that an address asks for.
pub fn is_meant(look: &Look, release: &Release) -> bool {
    format!("{} {}", release.agent, release.version).contains(look.params.get("q").trim())
}

fn row(tx: &mut dyn Tx, release: Release) -> Result<ReleaseRow, Error> {
    let artifacts = releases::artifacts(tx, &release.agent, &release.version)?;
    let package = |(artifact, size): (crate::model::release::Artifact, i64)| PackageRow {
        scope: PackageRow::scope(&artifact.arch, &artifact.os),
        name: artifact.name,
        size: PackageRow::size(size),
        sha256: artifact.sha256,
        url: artifact.url,
        signed: artifact.sig.is_some(),
    };
    let mut notes = Vec::new();
    if release.definition.is_some() {
        notes.push("with a definition".to_string());
    }
    if let Some(startsecs) = release.startsecs {
        notes.push(format!("must live {startsecs} s to count as started"));
    }
    Ok(ReleaseRow {
        agent: release.agent,
        version: release.version,
        created: release.created,
        withdrawn: release.withdrawn,
        packages: artifacts.into_iter().map(package).collect(),
        notes: notes.join(", "),
    })
}

/// The form that adds a package.
///
/// # Errors
/// What the engine says.
pub fn new_release(tx: &mut dyn Tx, look: &Look, fields: &Params, wrong: Option<String>) -> Result<String, Error> {
    let f = frame(tx, look, "/releases", "Add a package")?;
    // Envs may be secrets: a definition with some is not shown again.
    let has_envs = fields.get("definition").contains("\"envs\"");
    let fields = &if has_envs { fields.with("definition", "") } else { fields.clone() };
    let again = "the definition has envs, so it is not shown again: give it once more";
    let wrong = wrong.map(|why| if has_envs { format!("{why}; {again}") } else { why });
    let known: Vec<(String, String)> =
        releases::list(tx, None)?.into_iter().map(|release| (release.agent, release.version)).collect();
    let agents = read_jobs::agent_names(tx, look, &known)?;
    let (name, digest) = (fields.get("uploaded_name").to_string(), fields.get("uploaded_sha256").to_string());
    let uploaded = (!name.is_empty() && !digest.is_empty()).then_some((name, digest));
    Ok(text_of(&NewRelease { f, fields: fields.clone(), wrong, agents, uploaded }))
}

/// Bytes of the fields that are no file.
const TEXT_MAX: usize = 256 << 10;

/// Takes the form with a package.
pub async fn add(look: Look, ask: &mut Ask) -> Reply {
    let Some(body) = ask.body.take() else {
        return refusal(&look, 415, "This cannot be done", "want a form of the type multipart/form-data").await;
    };
    if let Err(why) = look.caller.may(crate::model::people::role_to_change("packages")) {
        door::drain(body).await;
        return problem(&look, &Error::Forbidden(why)).await;
    }
    let fields = match receive(&look, header(&ask.headers, "content-type"), body).await {
        Ok(fields) => fields,
        Err(why) => return problem(&look, &Error::Refused(why)).await,
    };
    let done = match request(&fields) {
        Ok(request) => call(&look, "releases", request).await,
        Err(why) => Err(Error::Refused(why)),
    };
    match done {
        Ok(_) => see("/releases?done=added"),
        // The package is kept under its digest, so that the next try need not send it again.
        Err(Error::Refused(why)) => again(look, move |tx, look| new_release(tx, look, &fields, Some(why))).await,
        Err(error) => problem(&look, &error).await,
    }
}

/// Reads the form; a file goes to the packages, and what is known of it into `uploaded_name`, `uploaded_sha256`, `size`.
async fn receive(look: &Look, content_type: &str, mut body: Incoming) -> Result<Params, String> {
    let mut reader = Reader::new(content_type)?;
    let (mut fields, mut name, mut text, mut length) = (Params::default(), String::new(), Vec::new(), 0);
    let mut file: Option<(String, Upload)> = None;
    while let Some(data) = upload::next(&mut body).await? {
        for piece in reader.read(&data)? {
            match piece {
                Piece::Begin { name: _, file: Some(known) } if !known.is_empty() => {
                    file = Some((known, Upload::begin(&look.shared).await?));
                }
                Piece::Begin { name: known, .. } => name = known,
                Piece::Data(data) => match &mut file {
                    Some((_, upload)) => upload.write(&data).await?,
                    None => {
                        length += data.len();
                        if length > TEXT_MAX {
                            return Err("the fields of the form are longer than 256 KiB".to_string());
                        }
                        text.extend_from_slice(&data);
                    }
                },
                Piece::End => match file.take() {
                    Some((known, upload)) => {
                        let (digest, size) = upload.keep().await?;
                        for (name, value) in
                            [("uploaded_name", known), ("uploaded_sha256", digest), ("size", size.to_string())]
                        {
                            fields = fields.with(name, &value);
                        }
                    }
                    // What was uploaded now counts, and not what an earlier try left.
                    None if !fields.get(&name).is_empty() => text.clear(),
                    None => fields.push(&name, &String::from_utf8_lossy(&std::mem::take(&mut text))),
                },
            }
        }
    }
    match reader.is_over() {
        true => Ok(fields),
        false => Err("the form did not come whole".to_string()),
    }
}

/// The request that the fields make.
fn request(fields: &Params) -> Result<Json, String> {
    let text = |name: &str| fields.get(name).trim().to_string();
    let maybe = |name: &str| Some(text(name)).filter(|text| !text.is_empty());
    let mut body =
        json!({ "agent": text("agent"), "version": text("version"), "arch": text("arch"), "os": text("os") });
    if let Some(url) = maybe("url") {
        let checksum = text("checksum").to_ascii_lowercase();
        let name = url.split(['?', '#']).next().unwrap_or_default().rsplit('/').next().unwrap_or_default();
        body["name"] = json!(name);
        body["sha256"] = json!(checksum.trim_start_matches("sha256:"));
        body["url"] = json!(url);
    } else if let (Some(name), Some(digest)) = (maybe("uploaded_name"), maybe("uploaded_sha256")) {
        body["name"] = json!(name);
        body["sha256"] = json!(digest);
        body["size"] = json!(text("size").parse::<i64>().unwrap_or(0));
    } else {
        return Err("want a package: choose a file, or give a URL and its checksum".to_string());
    }
    if let Some(sig) = maybe("sig") {
        body["sig"] = json!(format!("{}\n", sig.replace("\r\n", "\n")));
    }
    if let Some(definition) = maybe("definition") {
        let value: Json =
            serde_json::from_str(&definition).map_err(|error| format!("definition: not JSON: {error}"))?;
        if !value.is_object() {
            return Err("definition: want a JSON object".to_string());
        }
        body["definition"] = value;
    }
    if let Some(startsecs) = maybe("startsecs") {
        let wrong = || format!("startsecs: want a number of seconds, got \"{startsecs}\"");
        body["startsecs"] = json!(startsecs.parse::<i64>().map_err(|_| wrong())?);
    }
    Ok(body)
}
