//! Releases and their artifacts.

use super::{missing, refused, Error, Row, Tx};
use crate::args;
use crate::model::release::Artifact;

/// A version of an agent that can be given to hosts.
#[derive(Clone, Debug)]
pub struct Release {
    /// The agent.
    pub agent: String,
    /// The version.
    pub version: String,
    /// The definition that jobs carry.
    pub definition: Option<String>,
    /// How long it must live to count as started.
    pub startsecs: Option<i64>,
    /// When it was made.
    pub created: i64,
    /// When it was withdrawn.
    pub withdrawn: Option<i64>,
}

/// A release with its artifacts and the sizes of these.
pub type Whole = (Release, Vec<(Artifact, i64)>);

fn release_of(row: &Row) -> Release {
    Release {
        agent: row.text(0),
        version: row.text(1),
        definition: row.maybe_text(2),
        startsecs: row.maybe_int(3),
        created: row.int(4),
        withdrawn: row.maybe_int(5),
    }
}

/// All releases; of one agent where it is named.
///
/// # Errors
/// What the engine says.
pub fn list(tx: &mut dyn Tx, agent: Option<&str>) -> Result<Vec<Release>, Error> {
    let sql = "SELECT agent, version, definition, startsecs, created, withdrawn FROM releases \
        WHERE ?1 IS NULL OR agent = ?1 ORDER BY agent, created";
    Ok(tx.rows(sql, args![agent])?.iter().map(release_of).collect())
}

/// The artifacts of a release, with their sizes.
///
/// # Errors
/// What the engine says.
pub fn artifacts(tx: &mut dyn Tx, agent: &str, version: &str) -> Result<Vec<(Artifact, i64)>, Error> {
    let sql = "SELECT arch, os, sha256, name, url, sig, size FROM artifacts WHERE agent = ?1 AND version = ?2 \
        ORDER BY arch, os";
    let artifact = |row: &Row| {
        let (arch, os, sha256, name) = (row.text(0), row.text(1), row.text(2), row.text(3));
        (Artifact { arch, os, sha256, name, url: row.maybe_text(4), sig: row.maybe_text(5) }, row.int(6))
    };
    Ok(tx.rows(sql, args![agent, version])?.iter().map(artifact).collect())
}

/// All releases with their artifacts and the sizes of these.
///
/// # Errors
/// What the engine says.
pub fn list_whole(tx: &mut dyn Tx) -> Result<Vec<Whole>, Error> {
    let mut whole = Vec::new();
    for release in list(tx, None)? {
        let artifacts = artifacts(tx, &release.agent, &release.version)?;
        whole.push((release, artifacts));
    }
    Ok(whole)
}

/// Adds an artifact, and its release where it is missing. What is there is never changed.
///
/// # Errors
/// What the engine says; that it is withdrawn, has another definition or startsecs, or has another artifact for this arch and
/// os already.
pub fn add(tx: &mut dyn Tx, release: &Release, artifact: &Artifact, size: i64) -> Result<(), Error> {
    let (agent, version) = (&release.agent, &release.version);
    let named = format!("release {agent} {version}");
    match list(tx, Some(agent))?.into_iter().find(|known| known.version == *version) {
        None => {
            let sql = "INSERT INTO releases (agent, version, definition, startsecs, created) \
                VALUES (?1, ?2, ?3, ?4, ?5)";
            let definition = release.definition.as_deref();
            tx.run(sql, args![agent, version, definition, release.startsecs, release.created])?;
        }
        Some(known) if known.withdrawn.is_some() => {
            return refused(format!("{named} is withdrawn: make a new version"));
        }
        Some(known) if release.definition.is_some() && known.definition != release.definition => {
            return refused(format!("{named} has another definition, and a release never changes: make a new version"));
        }
        Some(known) if release.startsecs.is_some() && known.startsecs != release.startsecs => {
            let secs = known.startsecs.map_or("none".to_string(), |secs| secs.to_string());
            return refused(format!("{named} has startsecs {secs}, and a release never changes: make a new version"));
        }
        Some(_) => (),
    }
    let sql = "INSERT INTO artifacts (agent, version, arch, os, sha256, name, url, sig, size) \
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT DO NOTHING";
    let Artifact { arch, os, sha256, name, url, sig } = artifact;
    if tx.run(sql, args![agent, version, arch, os, sha256, name, url.as_deref(), sig.as_deref(), size])? == 0 {
        let known = artifacts(tx, agent, version)?;
        if !known.iter().any(|(known, _)| known == artifact) {
            return refused(format!("{named} has another package for this arch and os, and a release never changes"));
        }
    }
    Ok(())
}

/// Withdraws a release: no new job takes it.
///
/// # Errors
/// What the engine says, or that there is none.
pub fn withdraw(tx: &mut dyn Tx, agent: &str, version: &str, now: i64) -> Result<(), Error> {
    let sql = "UPDATE releases SET withdrawn = ?3 WHERE agent = ?1 AND version = ?2 AND withdrawn IS NULL";
    match tx.run(sql, args![agent, version, now])? {
        0 => missing(format!("there is no release {agent} {version} that is not withdrawn")),
        _ => Ok(()),
    }
}

/// The package that is stored here under a digest and a name.
///
/// # Errors
/// What the engine says.
pub fn is_served(tx: &mut dyn Tx, sha256: &str, name: &str) -> Result<bool, Error> {
    let sql = "SELECT count(*) FROM artifacts WHERE sha256 = ?1 AND name = ?2 AND url IS NULL";
    Ok(tx.number(sql, args![sha256, name])? > 0)
}
