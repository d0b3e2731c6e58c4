//! Releases: what can be given to hosts.

use super::{words, Frame, Pager};
use askama::Template;

/// A package of a release.
pub struct PackageRow {
    /// The file.
    pub name: String,
    /// For which hosts.
    pub scope: String,
    /// How large.
    pub size: String,
    /// Its digest.
    pub sha256: String,
    /// Where it is when it is not here.
    pub url: Option<String>,
    /// Whether it is signed.
    pub signed: bool,
}

/// A release in the list.
pub struct ReleaseRow {
    /// The agent.
    pub agent: String,
    /// The version.
    pub version: String,
    /// When it was added.
    pub created: i64,
    /// When it was withdrawn.
    pub withdrawn: Option<i64>,
    /// Its packages.
    pub packages: Vec<PackageRow>,
    /// What it says of how it is run.
    pub notes: String,
}

impl ReleaseRow {
    /// Where a job with it is given.
    pub fn job_address(&self) -> String {
        let encode = crate::wire::url::encode;
        format!("/jobs/new?action=install&agent={}&version={}", encode(&self.agent), encode(&self.version))
    }
}

impl PackageRow {
    /// For which hosts a package is, in words.
    pub fn scope(arch: &str, os: &str) -> String {
        match (arch, os) {
            ("", "") => "every host".to_string(),
            ("", os) => os.to_string(),
            (arch, "") => arch.to_string(),
            (arch, os) => format!("{os}, {arch}"),
        }
    }

    /// A size that is known.
    pub fn size(bytes: i64) -> String {
        if bytes == 0 {
            String::new()
        } else {
            words::size(bytes)
        }
    }
}

/// The list of releases.
#[derive(Template)]
#[template(path = "releases.html")]
pub struct Releases {
    /// What is around it.
    pub f: Frame,
    /// The lines.
    pub rows: Vec<ReleaseRow>,
    /// Where in the list this is.
    pub pager: Pager,
}

/// The form that adds a package.
#[derive(Template)]
#[template(path = "release_new.html")]
pub struct NewRelease {
    /// What is around it.
    pub f: Frame,
    /// The fields as they were sent.
    pub fields: super::params::Params,
    /// Why it was not added.
    pub wrong: Option<String>,
    /// Names of agents that are known.
    pub agents: Vec<String>,
    /// The name of a package that has been uploaded already, with its digest.
    pub uploaded: Option<(String, String)>,
}
