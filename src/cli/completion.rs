//! `bootagent completion`: prints the completion of the command line for a shell.
//!
//! Each script is a template beside this file, in which the words are filled in.

use crate::cli::init::SYSTEMS;
use crate::cli::print;

/// The shells that have a script.
pub const SHELLS: [&str; 3] = ["bash", "zsh", "fish"];

/// Prints the script for `shell`, one of `SHELLS`; returns the exit code.
pub fn completion(shell: &str, commands: &[&str]) -> u8 {
    print(&script(shell, commands))
}

fn script(shell: &str, commands: &[&str]) -> String {
    let template = match shell {
        "bash" => include_str!("completion/bash.sh"),
        "zsh" => include_str!("completion/zsh.zsh"),
        _ => include_str!("completion/fish.fish"),
    };
    template
        .replace("@COMMANDS@", &commands.join(" "))
        .replace("@SYSTEMS@", &SYSTEMS.join(" "))
        .replace("@SHELLS@", &SHELLS.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_script_is_filled_in() {
        for shell in SHELLS {
            let script = script(shell, &["run", "status"]);
            assert!(script.contains("run status") && script.contains("systemd") && !script.contains("S@"), "{script}");
        }
    }
}
