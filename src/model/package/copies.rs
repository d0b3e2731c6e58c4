//! Copies of an agent that its package has started, as many packages start their service when they are installed: how they are
//! recognized, and the tool that ends them.

use super::{script, Tool, QUERY_TIMEOUT};
use crate::kernel::{Time, TICKS};

/// What a copy of an agent is recognized by.
#[derive(Debug, PartialEq, Eq)]
pub struct Traits<'a> {
    /// The path of its program.
    pub program: &'a str,
    /// The command of the program that it runs: all commands of busybox, or of toybox, are one program.
    pub command: &'a str,
    /// The script that its program, an interpreter, runs; empty for any other program.
    pub script: &'a str,
}

/// What copies of the agent with this `exec` are recognized by; `None` where nothing is sure enough.
pub fn traits(exec: &[Box<str>]) -> Option<Traits<'_>> {
    /// Programs that run scripts: the script is their first argument that is no option.
    const INTERPRETERS: [&str; 10] = ["sh", "bash", "dash", "ash", "python", "perl", "ruby", "node", "java", "php"];
    let (program, mut arguments) = exec.split_first().filter(|(program, _)| program.starts_with('/'))?;
    let mut command = program.rsplit('/').next().unwrap_or_default();
    if command.starts_with("busybox") || command.starts_with("toybox") {
        let (first, rest) = arguments.split_first()?;
        (command, arguments) = (first, rest);
    }
    let mut script = "";
    if INTERPRETERS.contains(&command.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.')) {
        script = arguments.iter().find(|word| !word.starts_with('-'))?;
    }
    Some(Traits { program, command, script })
}

/// The tool that ends copies of an agent and prints their ids: processes with these `traits` that were started at `since` or
/// later, are children of the daemon or of init, and have no BOOTAGENT_NAME in their environment. `known`: ids of processes
/// that are spared, with spaces between. Like all tools it finds stand-ins for the programs that start services first in PATH.
pub fn clear(traits: &Traits, since: Time, known: &str) -> Option<Tool> {
    // The variables, as short as the binary should be: a: the program as it is called, p: its file, n: the command, w: the
    // script, t: the earliest start in ticks, k: ids of processes to spare, d: a directory in /proc, i: its process, l: copies.
    // `words` prints the words of a file in it as lines, with character 1 for the line ends within a word, as w has them.
    // stat(5): behind the name in parentheses come the state, the parent and, as the twentieth, the start in ticks.
    const TEXT: &str = "a=$1; n=$2; t=$4; k=\" $$ $5 \"; l=; p=$(readlink -f \"$a\"); \
        w=$(printf %s \"$3\" | tr '\\n' '\\1'); words() { tr '\\0\\n' '\\n\\1' <$d/$1; }; \
        command_is() { words cmdline | sed -nE '1{s|.*/||;/^(busybox|toybox)/!{p;q;};};2{p;q;}' | grep -qxF -e \"$1\"; }; \
        is_copy() { if [ -n \"$w\" ]; then words cmdline | grep -qxF -e \"$w\"; return; fi; \
        [ \"$(readlink $d/exe)\" = \"$p\" ]; r=$?; case ${p##*/} in busybox*|toybox*) [ $r = 0 ] && command_is \"$n\"; return;; esac; \
        [ $r = 0 ] || words cmdline | grep -qxF -e \"$a\"; }; \
        for d in /proc/[0-9]*; do i=${d#/proc/}; s=$(cat $d/stat 2>/dev/null) || continue; set -- ${s##*\\) }; \
        case $2 in 1|$PPID) ;; *) continue;; esac; [ ${20} -ge $t ] || continue; \
        case $k in *\" $i \"*) continue;; esac; is_copy 2>/dev/null || continue; \
        words environ 2>/dev/null | grep -q ^BOOTAGENT_NAME= || l=\"$l $i\"; done; \
        [ -n \"$l\" ] || exit 0; kill $l 2>/dev/null; n=0; for i in $l; do \
        while [ $n -lt 10 ] && kill -0 $i 2>/dev/null; do sleep 1; n=$((n+1)); done; kill -9 $i 2>/dev/null; done; echo $l";
    let ticks = (since.0 / (1_000_000_000 / TICKS)).to_string();
    script(TEXT, &["clear", traits.program, traits.command, traits.script, &ticks, known], QUERY_TIMEOUT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_is_told_by_its_program_its_command_or_its_script() {
        for (exec, want) in [
            (&["/usr/sbin/web", "-f"][..], Some(["/usr/sbin/web", "web", ""])),
            (&["/bin/sh", "-e", "/opt/web", "x"], Some(["/bin/sh", "sh", "/opt/web"])),
            (&["/bin/sh", "-c", "a\nb\n"], Some(["/bin/sh", "sh", "a\nb\n"])),
            (&["/usr/bin/python3.11", "web.py"], Some(["/usr/bin/python3.11", "python3.11", "web.py"])),
            (&["/bin/busybox", "httpd", "-f"], Some(["/bin/busybox", "httpd", ""])),
            (&["/bin/busybox.static", "sh", "web"], Some(["/bin/busybox.static", "sh", "web"])),
            (&["/bin/busybox"], None),
            (&["/bin/toybox", "sh", "-s"], None),
            (&["/usr/bin/perl"], None),
            // A path within a tar, which no package manager starts anything of.
            (&["bin/web"], None),
        ] {
            let exec: Vec<Box<str>> = exec.iter().map(|word| Box::from(*word)).collect();
            let got = traits(&exec).map(|traits| [traits.program, traits.command, traits.script]);
            assert_eq!(got, want, "{exec:?}");
        }
    }
}
