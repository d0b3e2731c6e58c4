//! The pages, asked as a browser asks: lists that mean what filters mean, hosts that age, files that browsers keep.

mod util;

use serde_json::json;
use util::{try_exchange, wait_for, Host, Server};

struct Reader {
    server: Server,
    token: String,
}

impl Reader {
    fn start() -> Reader {
        let server = Server::start(&[]);
        let token = server.run(&["token", "new", "reader", "--role", "viewer"]).trim().to_string();
        Reader { server, token }
    }

    fn get(&self, path: &str) -> String {
        let headers = format!("Authorization: Bearer {}\r\n", self.token);
        let (status, _, body) = get(&self.server, path, &headers);
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    /// The first cell of each line of a CSV.
    fn first_cells(&self, path: &str) -> Vec<String> {
        self.get(path).lines().skip(1).map(|line| line.split(',').next().unwrap_or_default().to_string()).collect()
    }
}

/// A request without a login, or with the one of `headers`: status, head in lower case, body.
fn get(server: &Server, path: &str, headers: &str) -> (u16, String, String) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n{headers}\r\n", server.pages);
    try_exchange(&server.pages, &request).expect("an exchange")
}

/// Text as it stands in an address.
fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

#[test]
fn a_list_means_what_its_filter_means() {
    let reader = Reader::start();
    let server = &reader.server;
    let keys = [server.key(&["--group", "web", "--auto-accept"]), server.key(&["--group", "db"])];
    let agent = |version: &str, status: &str| json!([{ "name": "nginx", "version": version, "status": status }]);
    for (number, (name, key, os, more)) in [
        ("web-01", 0, "debian 12", json!({ "agents": agent("1.22.1", "running"), "labels": { "site": "ams" } })),
        ("web-02", 0, "debian 11", json!({ "agents": agent("1.22.10", "fatal") })),
        ("web_03", 0, "debianish 1", json!({ "agents": [], "version": "bootagent-1.0.0-armv7" })),
        ("db-01", 1, "alpine 3.20", json!({ "agents": agent("1.22.1", "stoped"), "labels": { "site": "fra" } })),
        ("db-02", 1, "debian 12", json!({ "agents": [] })),
    ]
    .into_iter()
    .enumerate()
    {
        let mut host = Host::new(name, &format!("sn-{number}"), Some(&keys[key]));
        host.more = more;
        host.more["os"] = json!(os);
        host.more["step"] = json!(600);
        host.report(server);
    }
    server.run(&["host", "label", "web-02", "tier=gold"]);
    server.run(&["host", "reject", "db-02"]);
    for filter in [
        "",
        "host=web-*",
        "host=*-01",
        "host!=web-01",
        "host=web?01",
        "group=web",
        "group!=web state=pending",
        "os=debian",
        "os=\"debian 12\"",
        "os!=debian",
        "os=deb*",
        "arch=armv7",
        "version=1.1.0",
        "version<1.1",
        "fresh=on-time",
        "late",
        "label.site=ams",
        "label.tier=gold",
        "agent.nginx=yes",
        "agent.nginx.version>1.22.2",
        "agent.nginx.status=stopped group=db",
        "sn=sn-2",
        "group<e",
    ] {
        let mut wanted: Vec<String> = server
            .json(&["host", "list", filter])
            .iter()
            .map(|host| host["sn"].as_str().expect("an sn").to_string())
            .collect();
        wanted.sort();
        let mut found = reader.first_cells(&format!("/hosts.csv?show=all&q={}", encoded(filter)));
        found.sort();
        assert_eq!(found, wanted, "{filter}");
        let page = reader.get(&format!("/hosts?show=all&q={}", encoded(filter)));
        let told = if wanted.is_empty() { "none".to_string() } else { format!("1\u{2013}{0} of {0}", wanted.len()) };
        assert!(page.contains(&format!("<span>{told}</span>")), "{filter}: want {told}");
    }
    assert_eq!(reader.first_cells("/hosts.csv?show=down"), ["sn-1"]);
    assert_eq!(reader.first_cells("/hosts.csv?show=gone"), ["sn-4"]);
    // Trouble first, then by name; what is rejected is not among them.
    assert_eq!(reader.first_cells("/hosts.csv"), ["sn-1", "sn-3", "sn-0", "sn-2"]);
}

#[test]
fn hosts_become_late_and_lost_and_come_back() {
    let reader = Reader::start();
    let server = &reader.server;
    let key = server.key(&["--group", "web", "--auto-accept"]);
    let mut host = Host::new("web-01", "sn-1", Some(&key));
    host.report(server);
    let is = |show: &str| (reader.first_cells(&format!("/hosts.csv?show={show}")) == ["sn-1"]).then_some(());
    assert_eq!(is("trouble"), None);
    wait_for("a late host", || is("late"));
    server.run(&["group", "set", "web", "lost_after=1"]);
    wait_for("a lost host", || is("lost"));
    let page = reader.get("/");
    assert!(page.contains("1 host is lost") && page.contains("group web calls that lost after 3 s"), "{page}");
    let lost = |events: String| events.matches("lost: no report for").count();
    assert_eq!(lost(server.events()), 1);
    host.report(server);
    assert_eq!((is("trouble"), is("active")), (None, Some(())), "a report counts at once");
    wait_for("a host that is lost again", || is("lost"));
    assert_eq!(lost(server.events()), 2, "each time is an event");
}

#[test]
fn agents_are_listed_by_version() {
    let reader = Reader::start();
    let key = reader.server.key(&["--group", "web", "--auto-accept"]);
    for (n, version) in ["1.0", "1.1", "1.1"].iter().enumerate() {
        let mut host = Host::new(&format!("web-{n}"), &format!("sn-{n}"), Some(&key));
        host.more = json!({ "timestamp": 0, "agents": [{ "name": "web", "version": version, "status": "running" },
            { "name": "db", "version": "9", "status": "stoped" }] });
        host.report(&reader.server);
    }
    reader.server.release("web", "1.2");
    let page = reader.get("/agents?q=we");
    assert!(page.contains(">1.2</a>") && page.contains("2 running") && !page.contains(">db<"), "{page}");
    let table = reader.get("/agents.csv");
    let lines: Vec<&str> = table.lines().skip(1).collect();
    assert_eq!(lines, ["db,9,3,3 stopped", "web,1.1,2,2 running", "web,1.0,1,1 running"]);
    assert!(reader.get("/hosts").contains("clock wrong"));
}

#[test]
fn short_lists_are_filtered_too() {
    let server = Server::start(&[]);
    let token = server.token("admin");
    for group in ["web", "db"] {
        server.key(&["--group", group]);
    }
    server.run(&["user", "add", "anna", "--role", "viewer"]);
    server.run(&["user", "add", "bert", "--role", "operator"]);
    server.run(&["token", "new", "deploy", "--role", "operator"]);
    server.run(&["webhook", "add", "chat", "http://chat.example.com/hidden"]);
    server.run(&["webhook", "add", "pager", "http://pager.example.com/"]);
    server.release("web", "1.0");
    server.release("db", "2.0");
    for (path, wanted) in [
        ("/groups.csv?q=WEB", "web"),
        ("/users.csv?q=ann", "anna"),
        ("/users.csv?q=operator", "bert"),
        ("/tokens.csv?q=depl", "deploy"),
        ("/webhooks.csv?q=chat.example", "chat"),
        ("/releases.csv?q=db", "db"),
    ] {
        let text = server.page(&token, path);
        let first: Vec<&str> = text.lines().skip(1).filter_map(|line| line.split(',').next()).collect();
        assert_eq!(first, [wanted], "{path}");
        assert!(!text.contains("hidden"), "{text}");
    }
    assert_eq!(server.page(&token, "/keys.csv?q=db").lines().count(), 2);
    assert!(server.page(&token, "/keys?q=nothing").contains("Clear the filter"));
    assert!(server.page(&token, "/groups?q=db").contains("href=\"/groups.csv?q=db\""));
}

#[test]
fn the_api_filters_as_the_pages_do() {
    let server = Server::start(&[]);
    let token = server.token("viewer");
    let key = server.key(&["--group", "web", "--auto-accept"]);
    for n in 1..3 {
        Host::new(&format!("web-{n}"), &format!("sn-{n}"), Some(&key)).report(&server);
    }
    server.run(&["job", "start", "web", "--select", "sn=sn-1"]);
    server.run(&["job", "stop", "db", "--select", "sn=sn-2"]);
    server.run(&["job", "cancel", "j2"]);
    let found = |path: &str, key: &str| -> Vec<String> {
        let list: Vec<serde_json::Value> = serde_json::from_str(&server.page(&token, path)).expect("an array");
        list.iter().map(|one| one[key].as_str().unwrap_or_default().to_string()).collect()
    };
    assert_eq!(found("/api/v1/jobs?state=running", "id"), ["j1"]);
    assert_eq!(found("/api/v1/jobs?state=cancelled&q=stop", "id"), ["j2"]);
    assert!(found("/api/v1/jobs?q=nothing", "id").is_empty());
    assert_eq!(found("/api/v1/events?host=web-2", "sn"), ["sn-2"]);
    assert_eq!(found("/api/v1/events?after=0&kind=host&q=new%20host", "sn"), ["sn-1", "sn-2"]);
    assert_eq!(found("/api/v1/audit?q=job%20cancel", "object"), ["job j2"]);
    assert!(found("/api/v1/audit?who=user:anna", "object").is_empty());
}

#[test]
fn look_ups_are_counted() {
    let reader = Reader::start();
    let done = || {
        let (_, _, metrics) = get(&reader.server, "/metrics", "");
        let line = metrics.lines().find_map(|line| line.strip_prefix("bootserver_reads_total{answer=\"done\"} "));
        assert!(metrics.contains("bootserver_reads_waiting "), "{metrics}");
        line.and_then(|count| count.parse::<u64>().ok()).expect("a count")
    };
    let before = done();
    reader.get("/hosts");
    assert!(done() > before);
}

#[test]
fn what_a_host_says_is_no_markup() {
    let reader = Reader::start();
    let server = &reader.server;
    let key = server.key(&["--group", "web", "--auto-accept"]);
    let mut host = Host::new("web-01", "sn-1", Some(&key));
    let evil = "<script>alert(1)</script>\"'";
    host.more = json!({
        "agents": [{ "name": "x", "version": evil, "status": "fatal", "detail": evil }],
        "os": evil, "labels": { evil: evil }, "troubles": [evil], "step": 600,
        "events": [{ "timestamp": 1, "name": evil, "message": evil }],
    });
    host.report(server);
    for path in
        ["/", "/hosts", "/hosts/sn-1", "/events", "/hosts?q=%3Cscript%3E", "/jobs/new?select=%22%3E%3Cscript%3E"]
    {
        let page = reader.get(path);
        assert!(!page.contains("<script>"), "{path}: {page}");
        assert!(page.contains("script"), "{path}");
    }
    let csv = reader.get("/events.csv");
    assert!(csv.contains("\"\"'"), "{csv}");
}

#[test]
fn files_are_kept_by_browsers_and_parts_of_pages_lead_to_the_login() {
    let reader = Reader::start();
    let (status, head, body) = get(&reader.server, "/static/style.css", "");
    assert_eq!(status, 200);
    assert!(
        head.contains("immutable") && head.contains("content-type: text/css") && body.contains("prefers-color-scheme")
    );
    let etag = head.lines().find_map(|line| line.strip_prefix("etag: ")).expect("an etag");
    let (status, _, body) = get(&reader.server, "/static/style.css", &format!("If-None-Match: {etag}\r\n"));
    assert_eq!((status, body.as_str()), (304, ""));
    assert!(get(&reader.server, "/static/htmx.js", "").2.contains("htmx"));
    assert_eq!(get(&reader.server, "/static/../style.css", "").0, 404);
    let (status, head, _) = get(&reader.server, "/hosts", "HX-Request: true\r\n");
    assert_eq!(status, 401);
    assert!(head.contains("hx-refresh: true"), "{head}");
}
