//! Jobs from outside: every action except those with packages, ids, results, order, the list of jobs, and what becomes of
//! them when the daemon dies in between.

mod util;

use std::fs;
use std::time::{Duration, Instant};

use util::*;

/// A server, and a started host with agent `web`.
fn pair() -> (Server, Host) {
    let server = Server::new();
    let mut host = Host::with(&server);
    host.agent("web", "exec sleep 1000", &[]);
    host.start();
    host.wait_running("web");
    (server, host)
}

fn pid(host: &Host) -> i32 {
    host.seen("web").map_or(0, |agent| agent.pid)
}

/// Whether the agent's process has this entry in its environment.
fn has_env(pid: i32, entry: &str) -> bool {
    let bytes = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    bytes.split(|byte| *byte == 0).any(|known| known == entry.as_bytes())
}

#[test]
fn an_agent_is_stopped_started_and_restarted() {
    let (server, mut host) = pair();
    host.does(&server, &Job::new("j-stop", "stop", "web"), 0);
    assert_eq!(host.seen("web").map(|agent| agent.status), Some("stoped".to_string()));
    assert_eq!(host.agents_processes(), []);
    host.does(&server, &Job::new("j-stop-again", "stop", "web"), 0);
    // A stop by a job is remembered as one by hand.
    host.kill9();
    server.forget();
    host.start();
    host.wait("reports of the next daemon", || server.statuses().len() >= 2);
    assert!(!host.seen("web").unwrap().runs());

    host.does(&server, &Job::new("j-start", "start", "web"), 0);
    let first = host.wait_running("web").pid;
    host.does(&server, &Job::new("j-start-again", "start", "web"), 0);
    assert_eq!(pid(&host), first, "a start of what runs is no restart");
    host.does(&server, &Job::new("j-restart", "restart", "web"), 0);
    assert_ne!(host.wait_running("web").pid, first);
    assert!(!alive(first));
}

#[test]
fn a_start_that_does_not_last_is_code_7() {
    let (server, host) = pair();
    host.agent("weak", "echo the disk is gone; exit 4", &[("autostart", "false"), ("retries", "0")]);
    host.agent("missing", "", &[("autostart", "false"), ("retries", "0"), ("exec", "[\"/nonexistent/agent\"]")]);
    host.signal("HUP");
    host.wait("the new agents", || host.seen("weak").is_some() && host.seen("missing").is_some());
    let message = host.does(&server, &Job::new("weak-1", "start", "weak"), 7);
    assert!(message.contains("status 4"), "{message}");
    assert!(message.contains("the disk is gone"), "the agent's last lines are missing: {message}");
    let message = host.does(&server, &Job::new("missing-1", "restart", "missing"), 7);
    assert!(message.contains("No such file"), "{message}");
}

#[test]
fn a_bad_job_says_why_and_costs_its_neighbours_nothing() {
    let (server, host) = pair();
    let package = "\"checksum\":\"SHA256:4a34b8d7d3009bb9ef9475fbf33e7bbe4a1e8db003aefc578a241c2f51c2c2f2\"";
    let install = |id: &str, rest: &str| format!("{{\"id\":\"{id}\",\"action\":\"install\",\"name\":\"x\",{rest}}}");
    // (job, code, what its message names)
    let bad = [
        ("{\"id\":\"b1\",\"action\":\"dance\",\"name\":\"web\"}".to_string(), 2, "dance"),
        ("{\"id\":\"b2\",\"name\":\"web\"}".to_string(), 1, "action"),
        ("{\"id\":\"b3\",\"action\":\"stop\"}".to_string(), 1, "name"),
        ("{\"id\":\"b4\",\"action\":\"stop\",\"name\":\"../web\"}".to_string(), 1, "name"),
        ("{\"id\":\"b5\",\"action\":\"stop\",\"name\":7}".to_string(), 1, "name"),
        ("{\"id\":\"b6\",\"action\":\"stop\",\"name\":\"nobody-knows\"}".to_string(), 3, "nobody-knows"),
        (install("b7", "\"url\":\"http://127.0.0.1:1/x.tar.gz\""), 1, "checksum"),
        (install("b8", package), 1, "url"),
        (install("b9", &format!("\"url\":\"gopher://h/x.tar.gz\",{package}")), 1, "url"),
        (install("b10", &format!("\"url\":\"http://127.0.0.1:1/x.zip\",{package}")), 1, "url"),
        (install("b11", "\"url\":\"http://127.0.0.1:1/x.tar.gz\",\"checksum\":\"MD5:00\""), 1, "checksum"),
        ("{\"id\":\"b12\",\"action\":\"config\",\"step\":9}".to_string(), 1, "step"),
        ("{\"id\":\"b13\",\"action\":\"config\",\"step\":86401}".to_string(), 1, "step"),
        ("{\"id\":\"b14\",\"action\":\"config\",\"svrlist\":\"host:0\"}".to_string(), 1, "host:0"),
        ("{\"id\":\"b15\",\"action\":\"config\",\"name\":\"web\",\"envs\":{\"A=B\":\"c\"}}".to_string(), 1, "envs"),
        (
            "{\"id\":\"b16\",\"action\":\"config\",\"name\":\"web\",\"limits\":{\"memory\":\"20X\"}}".to_string(),
            1,
            "20X",
        ),
        ("{\"id\":\"b17\",\"action\":\"stop\",\"name\":\"bootagent\"}".to_string(), 10, "bootagent"),
        ("{\"id\":\"b18\",\"action\":\"uninstall\",\"name\":\"web\"}".to_string(), 10, "file"),
    ];
    let mut jobs: Vec<&str> = bad.iter().map(|(job, ..)| job.as_str()).collect();
    // Without a usable id: logged, and nothing else.
    jobs.extend(["{\"action\":\"stop\",\"name\":\"web\"}", "{\"id\":\"../up\",\"action\":\"stop\",\"name\":\"web\"}"]);
    jobs.extend(["{\"id\":7,\"action\":\"stop\",\"name\":\"web\"}", "null", "\"text\"", "[]"]);
    jobs.insert(3, "{\"id\":\"good-1\",\"action\":\"config\",\"step\":3600,\"unknown\":{\"key\":[1]}}");
    jobs.push("{\"id\":\"good-2\",\"action\":\"start\",\"name\":\"web\"}");
    server.give_all(&jobs);
    for id in ["good-1", "good-2"] {
        assert_eq!(host.result(&server, id).0, 0, "{id}");
    }
    for (job, code, named) in &bad {
        let id = &job[7..job.find(',').unwrap() - 1];
        let (got, message) = host.result(&server, id);
        assert_eq!(got, *code, "{job}: {message}");
        assert!(message.contains(named), "{job}: \"{message}\" does not name {named}");
    }
    assert!(host.seen("web").unwrap().runs());
    assert!(!host.path("up").exists());
    // What can only be logged comes again with every reply, and is said once.
    let said = || host.read("log/bootagent.log").matches("without a usable id").count();
    let (before, count) = (said(), server.requests_to("/agent/status").len());
    let text = "{\"id\":\"b-last\",\"action\":\"restart\",\"name\":\"web\"}";
    server.give(text);
    // The step is an hour by now.
    host.ok(&["report"]);
    assert_eq!(host.result(&server, "b-last").0, 0);
    assert!(before >= 3 && server.requests_to("/agent/status").len() > count);
    assert_eq!(said(), before, "{}", host.logs());
    assert_eq!(server.times_taken("../up") + server.times_taken(""), 0);
}

#[test]
fn an_id_is_run_once_however_often_it_is_given() {
    let (server, mut host) = pair();
    server.repeats();
    host.does(&server, &Job::new("once", "restart", "web"), 0);
    let first = host.wait_running("web").pid;
    let given = |from: usize| server.requests_to("/agent/status").len() >= from + 4;
    let count = server.requests_to("/agent/status").len();
    host.wait("the job to be given four times more", || given(count));
    host.kill9();
    host.start();
    let count = server.requests_to("/agent/status").len();
    host.wait("the job to be given to the next daemon", || given(count));
    assert_eq!(pid(&host), first, "it was run again\n{}", host.logs());
    assert_eq!(server.times_taken("once"), 1);
    assert_eq!(text(&host.job("once").unwrap(), "state"), "taken");
}

#[test]
fn a_result_is_sent_until_it_is_taken() {
    let (server, mut host) = pair();
    server.takes(false);
    server.give(&Job::new("stubborn", "stop", "web").text());
    host.wait("the result to be sent three times", || server.sent_results().len() >= 3);
    assert_eq!(text(&host.job("stubborn").unwrap(), "state"), "done");
    // Never in the way of a status.
    let count = server.requests_to("/agent/status").len();
    host.wait("more reports", || server.requests_to("/agent/status").len() > count + 2);
    host.kill9();
    server.forget();
    host.start();
    host.wait("the next daemon to send it", || server.sent_results().iter().flatten().any(|id| id == "stubborn"));
    server.takes(true);
    assert_eq!(host.result(&server, "stubborn").0, 0);
    host.wait("the ledger to know", || text(&host.job("stubborn").unwrap(), "state") == "taken");
    let sent = server.sent_results().len();
    let count = server.requests_to("/agent/status").len();
    host.wait("more reports", || server.requests_to("/agent/status").len() > count + 2);
    assert_eq!((server.times_taken("stubborn"), server.sent_results().len()), (1, sent), "sent after it was taken");
}

#[test]
fn one_refused_result_holds_up_no_other() {
    let (server, host) = pair();
    server.refuses("hated");
    let jobs = ["hated", "liked-1", "liked-2"].map(|id| Job::new(id, "stop", "no-such-agent").text());
    server.give_all(&jobs.each_ref().map(String::as_str));
    assert_eq!(host.result(&server, "liked-1").0, 3);
    assert_eq!(host.result(&server, "liked-2").0, 3);
    let count = server.requests_to("/agent/status").len();
    host.wait("more reports", || server.requests_to("/agent/status").len() > count + 2);
    assert_eq!(server.result("hated"), None);
}

#[test]
fn a_flood_of_jobs_is_answered_to_the_last() {
    let (server, host) = pair();
    let jobs: Vec<String> = (0..300).map(|n| Job::new(&format!("n{n}"), "stop", "no-such-agent").text()).collect();
    server.give_all(&jobs.iter().map(String::as_str).collect::<Vec<_>>());
    for n in 0..300 {
        assert_eq!(host.result(&server, &format!("n{n}")).0, 3);
    }
    assert!(server.sent_results().iter().all(|batch| batch.len() <= 64), "more than 64 results in one array");
    for n in 0..300 {
        assert_eq!(server.times_taken(&format!("n{n}")), 1, "n{n}");
    }
}

#[test]
fn a_stop_cancels_what_waits_for_the_agent() {
    let (server, host) = pair();
    host.agent("slow", "exec sleep 1000", &[("startsecs", "1.5")]);
    host.agent("other", "exec sleep 1000", &[]);
    host.signal("HUP");
    host.wait_running("slow");
    host.wait_running("other");
    let jobs = [
        Job::new("s1", "restart", "slow").text(),
        Job::new("s2", "restart", "slow").text(),
        Job::new("s3", "stop", "slow").text(),
        Job::new("s4", "start", "slow").text(),
        Job::new("o1", "restart", "other").text(),
    ];
    server.give_all(&jobs.each_ref().map(String::as_str));
    let (code, message) = host.result(&server, "s2");
    assert!(code == 9 && message.contains("s3"), "{code} {message}");
    assert_eq!(host.result(&server, "s3").0, 0);
    assert_eq!(host.result(&server, "o1").0, 0, "agents wait for each other");
    // What was ordered after the stop is ordered all the same.
    assert_eq!(host.result(&server, "s4").0, 0);
    host.result(&server, "s1");
    assert!(host.seen("slow").unwrap().runs());
}

#[test]
fn jobs_of_one_agent_run_in_order() {
    let (server, host) = pair();
    host.agent("slow", "exec sleep 1000", &[("startsecs", "1")]);
    host.signal("HUP");
    host.wait_running("slow");
    let late = Job::new("late", "restart", "slow").set("expires", "1");
    let jobs = [Job::new("first", "restart", "slow"), Job::new("second", "restart", "slow"), late];
    server.give_all(&jobs.each_ref().map(Job::text).each_ref().map(String::as_str));
    assert_eq!(host.result(&server, "first").0, 0);
    assert_eq!(server.result("second"), None, "two jobs of one agent at a time");
    assert_eq!(host.result(&server, "second").0, 0);
    let (code, message) = host.result(&server, "late");
    assert_eq!(code, 9, "{message}");
}

#[test]
fn a_window_puts_a_job_off_but_not_for_ever() {
    let (server, host) = pair();
    let before = Instant::now();
    host.does(&server, &Job::new("rolled", "restart", "web").set("window", "2"), 0);
    assert!(before.elapsed() < Duration::from_secs(30));
    // The moment is the same for the same host and id: computed here as design 6 says.
    let status = host.status().unwrap();
    let digest = checksum(format!("{}\nrolled", text(&status, "sn")).as_bytes());
    let number = u64::from_str_radix(&digest["SHA256:".len()..][..16], 16).unwrap();
    let expected = Duration::from_secs(number % 2);
    assert!(before.elapsed() >= expected, "it began before its moment, {expected:?}");
}

#[test]
fn a_new_step_counts_from_now_on_and_is_kept() {
    let (server, mut host) = pair();
    host.does(&server, &Job::new("step", "config", "").set("step", "20"), 0);
    host.ok(&["report"]);
    assert_eq!(number(server.statuses().last().unwrap(), "step"), 20.0);
    host.kill9();
    server.forget();
    host.start();
    host.wait("the first report", || !server.statuses().is_empty());
    assert_eq!(number(&server.statuses()[0], "step"), 20.0, "forgotten by the next daemon");
}

#[test]
fn a_new_server_list_is_on_trial() {
    let (server, mut host) = pair();
    let config = |id: &str, list: &str| Job::new(id, "config", "").set("svrlist", &format!("\"{list}\""));
    let message = host.does(&server, &config("nowhere", &Server::nowhere()), 4);
    assert!(!message.is_empty());
    let count = server.requests_to("/agent/status").len();
    host.wait("the old server to be used on", || server.requests_to("/agent/status").len() > count);

    // An answer that does not follow the protocol proves nothing.
    let wrong = Server::new();
    wrong.mode(Mode::reply("200 OK", "", "{\"hello\": \"world\"}"));
    host.does(&server, &config("wrong", &wrong.address), 4);

    let second = Server::new();
    server.give(&config("moved", &format!("{},{}", Server::nowhere(), second.address)).text());
    host.wait("the result", || server.result("moved").or(second.result("moved")).is_some());
    assert_eq!(server.result("moved").or(second.result("moved")).map(|(code, _)| code), Some(0));
    host.wait("the new server to hear reports", || second.statuses().len() >= 2);
    host.kill9();
    second.forget();
    host.start();
    host.wait("the new server to hear the next daemon", || !second.statuses().is_empty());

    // The default list never changes: it is what is left when the new one fails.
    second.mode(Mode::Close);
    server.forget();
    host.wait("the old server to be found again", || !server.statuses().is_empty());
    second.mode(Mode::Good);
    host.does(&server, &config("cleared", ""), 0);
    host.kill9();
    second.forget();
    host.start();
    let count = server.statuses().len();
    host.wait("the default list to be used", || server.statuses().len() > count + 1);
    assert!(second.requests().is_empty(), "the list was cleared");
}

#[test]
fn envs_and_limits_of_a_job_lie_over_the_definition() {
    let (server, mut host) = pair();
    let job = |id: &str, envs: &str| {
        Job::new(id, "config", "web").set("envs", envs).set("limits", "{\"nofile\":99,\"CPU\":\"50%\"}")
    };
    let before = pid(&host);
    host.does(&server, &job("first", "{\"TOKEN\":\"s3cret-token\",\"COLOUR\":\"red\"}"), 0);
    let first = host.wait_running("web").pid;
    assert_ne!(first, before, "changed, and not restarted");
    assert!(has_env(first, "TOKEN=s3cret-token") && has_env(first, "COLOUR=red"));
    let limits = fs::read_to_string(format!("/proc/{first}/limits")).unwrap();
    assert!(limits.lines().any(|line| line.starts_with("Max open files") && line.contains("99")), "{limits}");

    host.does(&server, &job("same", "{\"TOKEN\":\"s3cret-token\",\"COLOUR\":\"red\"}"), 0);
    assert_eq!(pid(&host), first, "nothing changed, and it was restarted");
    host.does(&server, &job("replaced", "{\"SHAPE\":\"round\"}"), 0);
    let second = host.wait_running("web").pid;
    assert!(has_env(second, "SHAPE=round") && !has_env(second, "COLOUR=red"), "envs of a job replace the former ones");
    host.end("TERM");
    host.start();
    // The process is made before it is its program.
    let third = host.wait_running("web").pid;
    host.wait("the environment that a job gave", || has_env(third, "SHAPE=round"));

    // Somebody who looks for the reason of the kill sees what the server did.
    let shown = host.ok(&["status", "web"]);
    assert!(shown.contains("limits given by a job") && shown.contains("CPU=50% nofile=99\n"), "{shown}");
    let status = host.status().expect("the daemon answers");
    assert_eq!(text(&items(&status, "agents")[0], "job_limits"), "CPU=50% nofile=99");

    let told = host.ok(&["status", "--json"]) + &host.ok(&["jobs", "--json"]) + &host.ok(&["jobs"]) + &host.logs();
    let sent: String = server.requests().iter().map(|request| request.body.clone()).collect();
    assert!(!told.contains("s3cret-token") && !sent.contains("s3cret-token"), "the value of an env was shown");
}

#[test]
fn a_job_ends_as_it_would_have_though_the_daemon_dies() {
    let (server, mut host) = pair();
    host.agent("slow", "exec sleep 1000", &[("startsecs", "0.6")]);
    host.signal("HUP");
    host.wait_running("slow");
    for (n, delay) in [0, 50, 200, 500, 800].into_iter().enumerate() {
        let id = format!("r{n}");
        server.give(&Job::new(&id, "restart", "slow").text());
        host.wait("the job to be received", || host.job(&id).is_some());
        let_pass(Duration::from_millis(delay));
        host.kill9();
        host.start();
        assert_eq!(host.result(&server, &id).0, 0, "after {delay} ms\n{}", host.logs());
        let agent = host.wait_running("slow");
        assert!(alive(agent.pid));
        let sleeps = host.agents_processes().len();
        assert_eq!(sleeps, 2, "web and slow, once each, after {delay} ms\n{}", host.logs());
        // A daemon that was killed before it recorded that sends the result again.
        host.wait("it to be noted as taken", || host.job(&id).is_some_and(|row| text(&row, "state") == "taken"));
    }
    // The last one was killed when the job may have ended: where the server had taken the result and the daemon had not
    // recorded that, the next one has sent it again.
    for (n, most) in [1, 1, 1, 1, 2].into_iter().enumerate() {
        let times = server.times_taken(&format!("r{n}"));
        assert!((1..=most).contains(&times), "r{n}: {times} times");
    }
}

#[test]
fn a_record_that_cannot_be_read_is_answered_and_not_run() {
    let (server, mut host) = pair();
    server.repeats();
    server.takes(false);
    server.give(&Job::new("torn", "restart", "web").text());
    host.wait("the result", || !server.sent_results().is_empty());
    host.kill9();
    let first = pid_of_web(&host);
    let record = entries(&host.path("state/jobs")).into_iter().find(|path| path.to_string_lossy().contains("torn"));
    fs::write(record.expect("a record named after the job"), "{ \"id\": \"to").unwrap();
    server.takes(true);
    host.start();
    host.result(&server, "torn");
    assert_eq!(pid(&host), first, "it was run again");
    let corrupt = entries(&host.path("state/jobs"));
    assert!(corrupt.iter().any(|path| path.to_string_lossy().ends_with(".corrupt")), "{corrupt:?}");
}

/// The agent's process while no daemon runs.
fn pid_of_web(host: &Host) -> i32 {
    *host.agents_processes().first().expect("the agent goes on without a daemon")
}

#[test]
fn the_ledger_shows_every_job() {
    let (server, host) = pair();
    assert_eq!(host.ok(&["jobs", "--json"]).trim(), "[]");
    host.does(&server, &Job::new("one", "stop", "web"), 0);
    host.does(&server, &Job::new("two", "stop", "no-such-agent"), 3);
    host.wait("both to be taken", || ["one", "two"].iter().all(|id| text(&host.job(id).unwrap(), "state") == "taken"));
    let row = host.job("two").unwrap();
    assert_eq!((text(&row, "action"), text(&row, "name"), number(&row, "errcode")), ("stop", "no-such-agent", 3.0));
    assert!(text(&row, "message").contains("no-such-agent"));
    let table = host.ok(&["jobs"]);
    for word in ["one", "two", "stop", "done, sent"] {
        assert!(table.contains(word), "{word} is missing in\n{table}");
    }
}
