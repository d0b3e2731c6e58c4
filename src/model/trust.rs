//! What a server may not do where packages must be signed: bring code onto the host by any other way than a package.
//!
//! A definition names what is executed, and some environment variables are as good as code, as a loader or an
//! interpreter takes commands, files or directories of code out of them before the program itself runs.

use crate::model::job::{Job, Order};
use crate::model::spec::Envs;

/// Variables that belong to the loader, the C library, a shell or an interpreter, by their beginning.
const PREFIXES: [&str; 22] = [
    "LD_", "GLIBC_", "BASH", "PERL", "PYTHON", "RUBY", "GEM_", "BUNDLE_", "NODE_", "LUA_", "PHP", "ERL_", "DOTNET_",
    "CORECLR_", "COR_", "OPENSSL_", "GUILE_", "R_", "JULIA_", "MONO_", "CAML_", "ELIXIR_",
];

/// The same by their whole name.
const NAMES: [&str; 26] = [
    "PATH",
    "HOME",
    "SHELL",
    "ENV",
    "IFS",
    "CDPATH",
    "FPATH",
    "SHELLOPTS",
    "PS4",
    "PROMPT_COMMAND",
    "ZDOTDIR",
    "GCONV_PATH",
    "LOCPATH",
    "NLSPATH",
    "HOSTALIASES",
    "RES_OPTIONS",
    "JAVA_HOME",
    "JAVA_TOOL_OPTIONS",
    "_JAVA_OPTIONS",
    "JDK_JAVA_OPTIONS",
    "CLASSPATH",
    "TCLLIBPATH",
    "TCL_LIBRARY",
    "AWKPATH",
    "AWKLIBPATH",
    "XDG_CONFIG_HOME",
];

/// Whether a variable of this name can make a program run other code than its own.
pub fn is_startup(name: &str) -> bool {
    NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Why this job is refused where packages must be signed; `None`: it may begin.
pub fn objection(job: &Job) -> Option<String> {
    if job.definition.is_some() {
        return Some("a definition in a job: with trusted_keys only a signed package's own counts".to_string());
    }
    let startup = |envs: &Envs| envs.iter().find(|(name, _)| is_startup(name)).map(|(name, _)| name.clone());
    if let Some(name) = job.envs.as_ref().and_then(startup) {
        return Some(format!("envs.{name}: with trusted_keys a job may not set what makes programs run other code"));
    }
    if !matches!(job.order, Order::Install(_) | Order::Upgrade(_)) {
        return None;
    }
    match (job.signature.as_deref().filter(|text| !text.is_empty()), &job.version) {
        (None, _) => Some("the package is not signed: no signature in the job".to_string()),
        (_, None) => Some("the job has no version, and so the signature cannot be for it".to_string()),
        (Some(_), Some(_)) => None,
    }
}

/// Whether a trusted comment is about this version of this agent: it says `name=NAME` and `version=VERSION` once each,
/// among what else it may say.
pub fn is_about(comment: &str, name: &str, version: &str) -> bool {
    let says = |key: &str, value: &str| {
        let mut values = comment.split_ascii_whitespace().filter_map(|word| word.strip_prefix(key)?.strip_prefix('='));
        values.next() == Some(value) && values.next().is_none()
    };
    says("name", name) && says("version", version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_that_are_as_good_as_code() {
        for (name, want) in [
            ("PATH", true),
            ("HOME", true),
            ("SHELL", true),
            ("LD_PRELOAD", true),
            ("LD_LIBRARY_PATH", true),
            ("LD_AUDIT", true),
            ("GLIBC_TUNABLES", true),
            ("BASH_ENV", true),
            ("BASH_FUNC_ls%%", true),
            ("ENV", true),
            ("PERL5OPT", true),
            ("PERL5LIB", true),
            ("PYTHONSTARTUP", true),
            ("PYTHONPATH", true),
            ("PYTHONHOME", true),
            ("RUBYOPT", true),
            ("RUBYLIB", true),
            ("NODE_OPTIONS", true),
            ("JAVA_TOOL_OPTIONS", true),
            ("_JAVA_OPTIONS", true),
            ("R_PROFILE", true),
            ("RATE", false),
            ("GCONV_PATH", true),
            ("ENVIRONMENT", false),
            ("PATHS", false),
            ("HOMEPAGE", false),
            ("OLD_VALUE", false),
            ("TZ", false),
            ("LANG", false),
            ("HTTP_PROXY", false),
        ] {
            assert_eq!(is_startup(name), want, "{name}");
        }
    }

    #[test]
    fn the_documentation_lists_them_all() {
        let text = include_str!("../../docs/security.md");
        for name in NAMES.iter().chain(&PREFIXES) {
            assert!(text.contains(&format!("`{name}`")), "{name}");
        }
    }

    #[test]
    fn comments_are_about_one_version_of_one_agent() {
        for (comment, want) in [
            ("name=web version=1.2", true),
            ("version=1.2 name=web", true),
            ("timestamp:1700000000\tname=web\tversion=1.2", true),
            ("name=web version=1.2 arch=x86_64", true),
            ("name=web", false),
            ("version=1.2", false),
            ("name=web version=1.20", false),
            ("name=web version=1", false),
            ("name=other version=1.2", false),
            ("name=web2 version=1.2", false),
            ("xname=web version=1.2", false),
            ("name=web name=other version=1.2", false),
            ("name=web version=1.2 version=1.3", false),
            ("name = web version = 1.2", false),
            ("NAME=web VERSION=1.2", false),
            ("", false),
        ] {
            assert_eq!(is_about(comment, "web", "1.2"), want, "{comment}");
        }
    }
}
