//! What a server may not do where packages must be signed (`trusted_keys`): bring code onto the host without a signature.
//!
//! A definition names the program to execute, so a job may not bring one. Environment variables can be as good as code: a
//! loader, a library or an interpreter takes commands, files or directories of code from them. It is impossible to list
//! these variables for every program, so a job may set only those that the agent's own definition names. Variables that
//! a loader, a shell or an interpreter reads before the program itself runs are refused even if the definition names them.

use crate::model::event::{Definition, Origin};
use crate::model::job::{Job, JobAction};
use crate::model::spec::Envs;

/// How variables begin that belong to the loader, the C library, a shell or an interpreter.
const PREFIXES: &str =
    "LD_ GLIBC_ MUSL_ BASH PERL PYTHON RUBY GEM_ BUNDLE_ NODE_ NPM_CONFIG_ DENO_ LUA_ LUAJIT_ PHP ERL_ DOTNET_ \
    COMPlus_ CORECLR_ COR_ OPENSSL_ GUILE_ R_ JULIA_ MONO_ CAML OCAML ELIXIR_ MIX_ GCONV_";

/// More of these variables, by their whole name.
const NAMES: &str =
    "PATH HOME SHELL ENV IFS CDPATH FPATH SHELLOPTS PS4 PROMPT_COMMAND ZDOTDIR LOCPATH NLSPATH HOSTALIASES \
    RES_OPTIONS JAVA_HOME JAVA_TOOL_OPTIONS _JAVA_OPTIONS JDK_JAVA_OPTIONS IBM_JAVA_OPTIONS OPENJ9_JAVA_OPTIONS \
    PSModulePath CLASSPATH TCLLIBPATH TCL_LIBRARY AWKPATH AWKLIBPATH XDG_CONFIG_HOME";

/// Whether a variable of this name can make a program run other code than its own.
pub fn is_startup(name: &str) -> bool {
    NAMES.split(' ').any(|known| known == name) || PREFIXES.split(' ').any(|prefix| name.starts_with(prefix))
}

/// Whether a job may set this variable where packages must be signed: the agent's definition names it in its `envs`. Only
/// a definition from a signed package or from a file on the host counts; one that a job brought, before keys were
/// configured, does not.
pub fn may_set(name: &str, definition: Option<&Definition>) -> bool {
    let named = |definition: &Definition| {
        definition.origin != Origin::Job && definition.spec.envs.iter().any(|(known, _)| **known == *name)
    };
    !is_startup(name) && definition.is_some_and(named)
}

/// The variables of `envs` that a job may not set, separated by commas; empty if there are none.
pub fn unnamed(envs: Option<&Envs>, definition: Option<&Definition>) -> String {
    let envs = envs.into_iter().flatten().map(|(name, _)| &**name);
    envs.filter(|name| !may_set(name, definition)).collect::<Vec<_>>().join(", ")
}

/// Why a job with this environment is refused for an agent with this definition; `None`: it is not refused.
pub fn env_objection(envs: Option<&Envs>, definition: Option<&Definition>) -> Option<String> {
    let unnamed = unnamed(envs, definition);
    let text = "with trusted_keys a job sets only variables that the agent's own definition names in its envs";
    (!unnamed.is_empty()).then(|| format!("envs: {unnamed}: {text}"))
}

/// Why this job is refused where packages must be signed, whatever the agent's definition says; `None`: it is not refused.
pub fn objection(job: &Job) -> Option<String> {
    if job.definition.is_some() {
        return Some("a definition in a job: with trusted_keys only a signed package's own counts".to_string());
    }
    let startup = |envs: &Envs| envs.iter().find(|(name, _)| is_startup(name)).map(|(name, _)| name.clone());
    if let Some(name) = job.envs.as_ref().and_then(startup) {
        return Some(format!("envs.{name}: with trusted_keys a job may not set what makes programs run other code"));
    }
    if !matches!(job.action, JobAction::Install(_) | JobAction::Upgrade(_)) {
        return None;
    }
    match (job.signature.as_deref().filter(|text| !text.is_empty()), &job.version) {
        (None, _) => Some("the package is not signed: no signature in the job".to_string()),
        (_, None) => Some("the job has no version, and so the signature cannot be for it".to_string()),
        (Some(_), Some(_)) => None,
    }
}

/// Whether the trusted comment of a signature is about this version of this agent: it has `name=NAME` and
/// `version=VERSION` exactly once each, possibly among other words.
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
    use crate::model::spec::Spec;

    #[test]
    fn variables_of_loaders_and_interpreters_are_recognized() {
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
    fn a_job_may_set_only_variables_that_the_definition_names() {
        let define = |origin| {
            let mut spec = Spec::new("web", "1", vec!["/bin/web".into()]);
            spec.envs = ["GREETING", "PATH", "LD_PRELOAD", "PYTHONPATH"].map(|name| (name.into(), "x".into())).into();
            Definition { origin, spec: Box::new(spec) }
        };
        let envs: Envs = ["GREETING", "greeting", "GREETING2", "GIO_EXTRA_MODULES", "PATH", "LD_PRELOAD", "PYTHONPATH"]
            .map(|name| (name.into(), "y".into()))
            .into();
        let not_named = "greeting, GREETING2, GIO_EXTRA_MODULES, PATH, LD_PRELOAD, PYTHONPATH";
        for (definition, want) in [
            (Some(define(Origin::File)), not_named.to_string()),
            (Some(define(Origin::Package)), not_named.to_string()),
            (Some(define(Origin::Job)), format!("GREETING, {not_named}")),
            (None, format!("GREETING, {not_named}")),
        ] {
            assert_eq!(unnamed(Some(&envs), definition.as_ref()), want);
            let objection = env_objection(Some(&envs), definition.as_ref()).unwrap_or_default();
            assert!(objection.starts_with(&format!("envs: {want}: with trusted_keys")), "{objection}");
            assert_eq!(env_objection(Some(&Envs::new()), definition.as_ref()), None);
            assert_eq!(env_objection(None, definition.as_ref()), None);
        }
        let one: Envs = vec![("GREETING".into(), "".into())];
        assert_eq!(env_objection(Some(&one), Some(&define(Origin::Package))), None);
    }

    #[test]
    fn a_trusted_comment_names_one_version_of_one_agent() {
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
