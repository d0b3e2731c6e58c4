//! `bootagent init`: prints a start script for an init system.
//!
//! Each script is a template beside this file, in which the binary's path, its options and its pid file are filled in. They
//! are not quoted in shell, unit file and inittab, so a path that would need quotes is refused.

use std::path::{Path, PathBuf};

use crate::cli::{configuration, failed, print, Ended};
use crate::error::Error;
use crate::host::config_files;

/// The init systems that have a script.
pub const SYSTEMS: [&str; 5] = ["sysv", "openrc", "procd", "systemd", "inittab"];

/// Prints the script for `system`, one of `SYSTEMS`, which starts this binary with the configuration at `config`; the
/// option for that is left out where it is the default.
///
/// # Errors
/// The exit code, after printing why.
pub fn init(system: &str, config: &Path) -> Ended {
    let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("/usr/sbin/bootagent"));
    let loaded = configuration(config)?;
    let config = (config != Path::new(config_files::CONFIG)).then_some(config);
    let text = script(system, &program, config, Path::new(&*loaded.config.run_dir)).map_err(|cause| failed(&cause))?;
    print(&text)
}

fn script(system: &str, program: &Path, config: Option<&Path>, run_dir: &Path) -> Result<String, Error> {
    let template = match system {
        "sysv" => include_str!("init/sysv.sh"),
        "openrc" => include_str!("init/openrc.sh"),
        "procd" => include_str!("init/procd.sh"),
        "systemd" => include_str!("init/systemd.service"),
        _ => include_str!("init/inittab"),
    };
    let arguments = config.map(plain).transpose()?.map_or(String::new(), |path| format!("-c {path} "));
    let option = format!(" {arguments}");
    let (pid_file, keeper_file) = (run_dir.join("bootagent.pid"), run_dir.join("keeper.pid"));
    let values = [
        ("@PROGRAM@", plain(program)?),
        ("@CONFIG@", option.trim_end()),
        ("@ARGUMENTS@", &arguments),
        ("@PIDFILE@", plain(&pid_file)?),
        ("@KEEPERFILE@", plain(&keeper_file)?),
    ];
    Ok(values.iter().fold(template.to_string(), |text, (name, value)| text.replace(name, value)))
}

/// The path as text that needs no quotes in any of the scripts.
fn plain(path: &Path) -> Result<&str, Error> {
    let text = path.to_str().unwrap_or_default();
    if text.starts_with('/') && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._+-".contains(&b)) {
        return Ok(text);
    }
    Err(format_error!(
        "cannot print a script with the path \"{}\": want an absolute one of A-Z a-z 0-9 / . _ + -",
        path.display()
    ))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;

    fn filled(system: &str, config: Option<&str>) -> String {
        script(system, Path::new("/opt/b/bootagent"), config.map(Path::new), Path::new("/run/b")).unwrap()
    }

    #[test]
    fn every_script_is_filled_in() {
        for system in SYSTEMS {
            let usual = filled(system, None);
            let left = ["@PROGRAM@", "@CONFIG@", "@ARGUMENTS@", "@PIDFILE@", "@KEEPERFILE@"]
                .iter()
                .any(|mark| usual.contains(mark));
            assert!(usual.contains("/opt/b/bootagent") && !left, "{usual}");
            let own = filled(system, Some("/x/y.json"));
            assert!(own.contains("-c /x/y.json") && own.ends_with('\n'), "{own}");
        }
        assert!(filled("systemd", None).contains("\nExecStart=/opt/b/bootagent run\n"));
        assert!(filled("systemd", Some("/x")).contains("\nExecStart=/opt/b/bootagent -c /x run\n"));
        assert!(filled("openrc", Some("/x")).contains("\ncommand_args=\"-c /x run\"\n"));
        assert!(filled("sysv", None).contains("\nPIDFILE=/run/b/bootagent.pid\n"));
        assert!(filled("inittab", None).ends_with("\n::respawn:/opt/b/bootagent run\n"));
    }

    #[test]
    fn the_shell_reads_every_script() {
        for system in ["sysv", "openrc", "procd"] {
            let mut shell = Command::new("sh").arg("-n").stdin(Stdio::piped()).spawn().unwrap();
            shell.stdin.take().unwrap().write_all(filled(system, Some("/x")).as_bytes()).unwrap();
            assert!(shell.wait().unwrap().success(), "{system}");
        }
    }

    #[test]
    fn paths_that_need_quotes_are_refused() {
        for path in ["/a b", "/a;b", "/a%n", "/$HOME", "relative", "/bootagent (deleted)", ""] {
            assert!(script("sysv", Path::new(path), None, Path::new("/run")).is_err(), "{path}");
        }
    }
}
