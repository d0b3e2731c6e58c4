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
    /// The words, a line each, among which is the script that its program, an interpreter, runs; empty for any other program.
    /// A line end within a word is a carriage return.
    pub script: String,
}

/// What copies of the agent with this `exec` are recognized by; `None` where nothing is sure enough.
pub fn traits(exec: &[Box<str>]) -> Option<Traits<'_>> {
    let words: Vec<&str> = exec.iter().map(|word| &**word).collect();
    traits_of(&words)
}

fn traits_of<'a>(exec: &[&'a str]) -> Option<Traits<'a>> {
    const SHELLS: [&str; 4] = ["sh", "bash", "dash", "ash"];
    const INTERPRETERS: [&str; 6] = ["python", "perl", "ruby", "node", "java", "php"];
    /// Programs that become another one, which their arguments name.
    const WRAPPERS: [&str; 5] = ["env", "nice", "ionice", "nohup", "setsid"];
    let (program, mut arguments) = exec.split_first().filter(|(program, _)| program.starts_with('/'))?;
    let mut command = program.rsplit('/').next().unwrap_or_default();
    if command.starts_with("busybox") || command.starts_with("toybox") {
        let (first, rest) = arguments.split_first()?;
        (command, arguments) = (first, rest);
    }
    if WRAPPERS.contains(&command) {
        let at = arguments.iter().position(|word| word.starts_with('/'))?;
        return traits_of(&arguments[at..]);
    }
    let is_shell = SHELLS.contains(&command);
    if let Some(words) = arguments.last().filter(|_| is_shell).and_then(|text| executed(text)) {
        return traits_of(&words);
    }
    let mut script = String::new();
    if is_shell || INTERPRETERS.contains(&command.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.')) {
        script = script_words(arguments)?.join("\n");
    }
    Some(Traits { program, command, script })
}

/// The words of the program that a shell becomes at the end of `text`, as in `. /etc/default/web; exec /usr/sbin/web -f`.
fn executed(text: &str) -> Option<Vec<&str>> {
    let (before, command) = text.rsplit_once("exec ")?;
    let is_command = before.is_empty() || before.ends_with([' ', ';', '&', '\n']);
    let words: Vec<&str> = command.split_whitespace().collect();
    words.first().filter(|program| is_command && program.starts_with('/'))?;
    Some(words)
}

/// The words among which is the script that an interpreter runs. A word behind an option may be the value of that: it is only
/// one of several then, up to the first that cannot be one.
fn script_words(arguments: &[&str]) -> Option<Vec<String>> {
    let is_option = |at: usize| arguments[at].starts_with('-');
    let first = (0..arguments.len()).find(|at| !is_option(*at))?;
    let is_sure = |at: &usize| !is_option(*at) && (*at == 0 || !is_option(*at - 1));
    let last = (first..arguments.len()).find(is_sure).unwrap_or(arguments.len() - 1);
    Some(arguments[first..=last].iter().map(|word| word.replace('\n', "\r")).collect())
}

/// The tool that has an init script stop what it has started, if `exec` calls one to start the agent: the copies that it makes
/// are not told by a program. What the script says is of no interest.
pub fn stop(exec: &[Box<str>]) -> Option<Tool> {
    let (_, words) = exec.split_last().filter(|(last, words)| &***last == "start" && !words.is_empty())?;
    let mut arguments = vec!["stop"];
    arguments.extend(words.iter().map(|word| &**word));
    script("\"$@\" stop >/dev/null 2>&1; :", &arguments, QUERY_TIMEOUT)
}

/// The tool that ends copies of agents and prints their ids: processes with one of these `traits` that were started at `since`
/// or later, are children of the daemon, and have no BOOTAGENT_NAME in their environment. A child of init counts too if it has
/// the environment of tools: an earlier daemon has begun the job then. `known`: ids of processes that are spared, with spaces
/// between. Like all tools it finds stand-ins for the programs that start services first in PATH.
pub fn clear(traits: &[Traits], since: Time, known: &str) -> Option<Tool> {
    // The variables, as short as the binary should be: t: the earliest start in ticks, k: ids of processes to spare, d: a
    // directory in /proc, i: its process, s: its stat, l: copies, e: a line end, p: the file of a program.
    // `words` prints the words of a file of a process as lines. `is_new` gets what is in stat(5) behind the name in
    // parentheses: the state, the parent and, as the twentieth, the start in ticks. `is_one` gets a program, its command and the
    // words of its script, `is_copy` those of all agents.
    const TEXT: &str = "t=$1; k=\" $$ $2 \"; l=; shift 2; e='\n'; words() { tr '\\0\\n' '\\n\\r' <$d/$1; }; \
        command_is() { words cmdline | sed -nE '1{s|.*/||;/^(busybox|toybox)/!{p;q;};};2{p;q;}' | grep -qxF -e \"$1\"; }; \
        is_new() { case $2 in $PPID) ;; 1) words environ | grep -qx SYSTEMD_OFFLINE=1;; *) false;; esac && [ ${20} -ge $t ]; }; \
        is_one() { if [ -n \"$3\" ]; then case \"$e$(words cmdline)$e\" in *\"$e$3$e\"*) return;; esac; return 1; fi; \
        p=$(readlink -f \"$1\"); [ \"$(readlink $d/exe)\" = \"$p\" ]; r=$?; \
        case ${p##*/} in busybox*|toybox*) [ $r = 0 ] && command_is \"$2\"; return;; esac; \
        [ $r = 0 ] || words cmdline | grep -qxF -e \"$1\"; }; \
        is_copy() { while [ $# -gt 0 ]; do ! is_one \"$1\" \"$2\" \"$3\" || return 0; shift 3; done; return 1; }; \
        for d in /proc/[0-9]*; do i=${d#/proc/}; case $k in *\" $i \"*) continue;; esac; \
        { s=$(cat $d/stat) && is_new ${s##*\\) } && is_copy \"$@\"; } 2>/dev/null || continue; \
        words environ 2>/dev/null | grep -q ^BOOTAGENT_NAME= || l=\"$l $i\"; done; \
        [ -n \"$l\" ] || exit 0; kill $l 2>/dev/null; n=0; for i in $l; do \
        while [ $n -lt 10 ] && kill -0 $i 2>/dev/null; do sleep 1; n=$((n+1)); done; kill -9 $i 2>/dev/null; done; echo $l";
    let ticks = (since.0 / (1_000_000_000 / TICKS)).to_string();
    let mut arguments = vec!["clear", &ticks, known];
    arguments.extend(traits.iter().flat_map(|traits| [traits.program, traits.command, &traits.script]));
    script(TEXT, &arguments, QUERY_TIMEOUT).filter(|_| !traits.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_init_script_is_called_to_stop() {
        for (exec, want) in [
            (&["/etc/init.d/web", "start"][..], Some("stop /etc/init.d/web")),
            (&["/bin/sh", "/etc/init.d/web", "start"], Some("stop /bin/sh /etc/init.d/web")),
            (&["/usr/sbin/web", "-d"], None),
            (&["/usr/sbin/start"], None),
        ] {
            let exec: Vec<Box<str>> = exec.iter().map(|word| Box::from(*word)).collect();
            assert_eq!(stop(&exec).map(|tool| tool.shown()).as_deref(), want);
        }
    }

    #[test]
    fn an_agent_is_told_by_its_program_its_command_or_its_script() {
        for (exec, want) in [
            (&["/usr/sbin/web", "-f"][..], Some(["/usr/sbin/web", "web", ""])),
            (&["/bin/sh", "/opt/web", "x"], Some(["/bin/sh", "sh", "/opt/web"])),
            // A word behind an option may be its value.
            (&["/bin/sh", "-e", "/opt/web", "x"], Some(["/bin/sh", "sh", "/opt/web\nx"])),
            (
                &["/usr/bin/python3", "-W", "ignore", "/opt/web"],
                Some(["/usr/bin/python3", "python3", "ignore\n/opt/web"]),
            ),
            (&["/usr/bin/java", "-Xmx1g", "-cp", "/opt", "Web", "x"], Some(["/usr/bin/java", "java", "/opt\nWeb"])),
            (&["/usr/bin/java", "-jar", "/opt/web", "-p", "80"], Some(["/usr/bin/java", "java", "/opt/web\n-p\n80"])),
            (&["/bin/sh", "-c", "a\nb\n"], Some(["/bin/sh", "sh", "a\rb\r"])),
            // What a shell or a wrapper becomes.
            (&["/bin/sh", "-c", "exec /usr/sbin/web $ARGS"], Some(["/usr/sbin/web", "web", ""])),
            (&["/bin/sh", "-c", ". /etc/x; exec /bin/perl /opt/web"], Some(["/bin/perl", "perl", "/opt/web"])),
            (&["/bin/sh", "-c", "daemon --exec /usr/sbin/web"], Some(["/bin/sh", "sh", "daemon --exec /usr/sbin/web"])),
            (&["/bin/sh", "-c", "exec web"], Some(["/bin/sh", "sh", "exec web"])),
            (&["/usr/bin/env", "A=b", "/usr/bin/nice", "-n", "5", "/usr/sbin/web"], Some(["/usr/sbin/web", "web", ""])),
            (&["/usr/bin/env", "web"], None),
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
            let got = traits(&exec);
            let got = got.as_ref().map(|traits| [traits.program, traits.command, &traits.script]);
            assert_eq!(got, want, "{exec:?}");
        }
    }
}
