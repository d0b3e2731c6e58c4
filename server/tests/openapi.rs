//! docs/server-openapi.yaml against the running server: every route is in it, every status in it is met, and every answer
//! has the form that it gives.

mod util;

use serde_json::{json, Map, Value};
use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use util::{try_exchange, Host, Server};

/// A database that fails, and a body that does not come: tests/people.rs.
const NOT_MET_HERE: [&str; 2] = ["503", "408"];

struct Doc(Value);

impl Doc {
    fn read() -> Doc {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/server-openapi.yaml");
        Doc(serde_norway::from_str(&fs::read_to_string(path).expect("the document")).expect("YAML"))
    }

    /// What a `$ref` leads to.
    fn deref<'a>(&'a self, value: &'a Value) -> &'a Value {
        match value["$ref"].as_str() {
            Some(text) => {
                self.0.pointer(text.trim_start_matches('#')).unwrap_or_else(|| panic!("{text} leads nowhere"))
            }
            None => value,
        }
    }

    /// (method, path, the operation)
    fn operations(&self) -> Vec<(String, String, &Value)> {
        let paths = self.0["paths"].as_object().expect("paths");
        let each = |(path, methods): (&String, &'_ Value)| -> Vec<(String, String)> {
            methods.as_object().expect("methods").keys().map(|method| (method.to_uppercase(), path.clone())).collect()
        };
        let names: Vec<(String, String)> = paths.iter().flat_map(each).collect();
        names
            .into_iter()
            .map(|(method, path)| {
                let operation = &paths[&path][method.to_lowercase()];
                (method, path, operation)
            })
            .collect()
    }

    /// What of a value does not fit a schema.
    fn misfits(&self, schema: &Value, value: &Value, at: &str, found: &mut Vec<String>) {
        let schema = self.deref(schema);
        let types: Vec<&str> = match &schema["type"] {
            Value::String(one) => vec![one],
            Value::Array(list) => list.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        let is = |name: &&str| match *name {
            "string" => value.is_string(),
            "integer" => value.is_i64(),
            "boolean" => value.is_boolean(),
            "array" => value.is_array(),
            "object" => value.is_object(),
            "null" => value.is_null(),
            other => panic!("the type {other} is not known here"),
        };
        if !types.is_empty() && !types.iter().any(is) {
            found.push(format!("{at}: want {types:?}, got {value}"));
        }
        if schema["enum"].as_array().is_some_and(|list| !list.contains(value)) {
            found.push(format!("{at}: {value} is not in {}", schema["enum"]));
        }
        for item in value.as_array().into_iter().flatten() {
            self.misfits(&schema["items"], item, &format!("{at}[]"), found);
        }
        let Some(object) = value.as_object() else { return };
        for key in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !object.contains_key(key) {
                found.push(format!("{at}: {key} is missing"));
            }
        }
        let none = Map::new();
        let properties = schema["properties"].as_object().unwrap_or(&none);
        for (key, inner) in object {
            match (properties.get(key), &schema["additionalProperties"]) {
                (Some(schema), _) => self.misfits(schema, inner, &format!("{at}.{key}"), found),
                (None, Value::Bool(false)) => found.push(format!("{at}: {key} is not in the document")),
                (None, more) => self.misfits(more, inner, &format!("{at}.{key}"), found),
            }
        }
    }
}

/// Asks, compares, and remembers which statuses were met.
struct Tester {
    doc: Doc,
    server: Server,
    met: BTreeSet<(String, String, String)>,
    wrong: Vec<String>,
}

impl Tester {
    fn exchange(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> (u16, String, String) {
        let mut request = format!("{method} {path} HTTP/1.1\r\nContent-Length: {}\r\n", body.len());
        if !headers.iter().any(|(name, _)| *name == "Host") {
            request += "Host: localhost\r\n";
        }
        for (name, value) in headers {
            request += &format!("{name}: {value}\r\n");
        }
        try_exchange(&self.server.pages, &format!("{request}\r\n{body}")).expect("an exchange")
    }

    /// One request. `route` is the path as the document has it.
    fn ask(
        &mut self,
        method: &str,
        route: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
        wanted: u16,
    ) -> Value {
        let (status, head, text) = self.exchange(method, path, headers, body);
        let named = format!("{method} {path} {}: {status} {}", body.get(..80).unwrap_or(body), text.trim());
        if status != wanted {
            self.wrong.push(format!("{named}: want {wanted}"));
        }
        let status = status.to_string();
        let answer = &self.doc.0["paths"][route][method.to_lowercase()]["responses"][&status];
        let content = self.doc.deref(answer)["content"].as_object();
        let Some((kind, media)) = content.and_then(|content| content.iter().next()) else {
            self.wrong.push(format!("{named}: the document does not know this status"));
            return Value::Null;
        };
        if !head.contains(&format!("content-type: {kind}")) {
            self.wrong.push(format!("{named}: want {kind}: {head}"));
        }
        let value =
            if kind == "application/json" { serde_json::from_str(&text).unwrap_or(Value::Null) } else { json!(text) };
        let mut misfits = Vec::new();
        self.doc.misfits(&media["schema"], &value, "", &mut misfits);
        self.wrong.extend(misfits.into_iter().map(|misfit| format!("{named}: {misfit}")));
        self.met.insert((method.to_string(), route.to_string(), status));
        value
    }
}

/// A server on which each list has something.
fn filled() -> Server {
    let server = Server::start(&[]);
    let key = server.key(&["--group", "web", "--auto-accept"]);
    let mut host = Host::new("web-01", "sn-1", Some(&key));
    host.more = json!({ "agents": [{ "name": "web", "version": "1.0", "status": "running" }] });
    host.report(&server);
    Host::new("web-02", "sn-2", Some(&key)).report(&server);
    server.release("web", "1.0");
    server.run(&["job", "restart", "web", "--select", "host=web-01"]);
    let id = host.jobs(&server)[0]["id"].as_str().expect("an id").to_string();
    host.result(&server, &id, 6, "did not stop");
    server.run(&["job", "install", "web", "--select", "group=web"]);
    server.run(&["webhook", "add", "old", "http://127.0.0.1:1/"]);
    server
}

/// Requests that an admin's token makes: (method, route, path below /api/v1/, body, status).
fn requests() -> Vec<(&'static str, &'static str, String, Value, u16)> {
    let get = |route: &'static str, path: &str, status| ("GET", route, path.to_string(), Value::Null, status);
    let post = |route: &'static str, body: Value, status| ("POST", route, route.to_string(), body, status);
    let sha = "0".repeat(64);
    let url = "http://example.com/web-2.0.tar.gz";
    let release = json!({ "agent": "web", "version": "2.0", "name": "web-2.0.tar.gz", "sha256": sha, "url": url,
        "definition": { "command": "web" }, "arch": null, "startsecs": 3 });
    let who = |name: &str| json!({ "name": name });
    let password = "correct horse";
    vec![
        get("me", "me", 200),
        get("counts", "counts", 200),
        get("hosts", "hosts", 200),
        get("hosts", "hosts?filter=group%3Dweb", 200),
        get("hosts", "hosts?filter=nonsense%3D%3D", 400),
        get("hosts/{host}", "hosts/web-01", 200),
        get("hosts/{host}", "hosts/nobody", 404),
        get("executions", "executions?filter=state!%3Ddone&limit=5", 200),
        get("executions", "executions?filter=x", 400),
        get("jobs", "jobs?limit=1", 200),
        get("jobs", "jobs?q=web&state=running", 200),
        get("jobs", "jobs?state=asleep", 400),
        get("jobs/{id}", "jobs/j1", 200),
        get("jobs/{id}", "jobs/j99", 404),
        get("releases", "releases", 200),
        get("keys", "keys", 200),
        get("groups", "groups", 200),
        get("events", "events?after=0&limit=100", 200),
        get("events", "events", 200),
        get("events", "events?kind=host&host=web-01&q=new&after=0", 200),
        get("audit", "audit?who=local:0&q=host", 200),
        get("audit", "audit", 200),
        get("webhooks", "webhooks", 200),
        post("hosts/state", json!({ "hosts": ["web-02"], "state": "accepted" }), 200),
        post("hosts/state", json!({ "hosts": ["nobody"], "state": "accepted" }), 404),
        post("hosts/state", json!({ "hosts": ["web-02"], "state": "asleep" }), 400),
        post("hosts/state", json!({ "hosts": [], "state": "accepted" }), 400),
        post("hosts/label", json!({ "host": "web-01", "labels": { "site": "a" } }), 200),
        post("hosts/label", json!({ "host": "nobody", "labels": {} }), 404),
        post("hosts/label", json!({ "host": "web-01", "labels": { "site": 1 } }), 400),
        post("hosts/pin", json!({ "hosts": ["web-01"], "reason": "debugging" }), 200),
        post("hosts/pin", json!({ "hosts": ["nobody"] }), 404),
        post("groups", json!({ "name": "db" }), 200),
        post("groups", json!({ "name": "db" }), 400),
        post("groups/set", json!({ "name": "db", "settings": { "lost_after": "60" } }), 200),
        post("groups/set", json!({ "name": "none", "settings": {} }), 404),
        post("groups/set", json!({ "name": "db", "settings": { "lost_after": 60 } }), 400),
        get("groups", "groups", 200),
        post("hosts/group", json!({ "host": "web-01", "group": "db" }), 200),
        post("hosts/group", json!({ "host": "web-01", "group": "none" }), 404),
        get("hosts/{host}", "hosts/sn-1", 200),
        post("hosts/replace", json!({ "old": "sn-2", "new": "sn-1" }), 200),
        post("hosts/replace", json!({ "old": "sn-2", "new": "nobody" }), 404),
        post("hosts/replace", json!({ "old": "sn-1", "new": "sn-1" }), 400),
        post("keys", json!({ "group": "db", "host": null, "auto_accept": true }), 200),
        post("keys", json!({ "group": "a b" }), 400),
        post("keys/revoke", json!({ "id": "none" }), 404),
        post("releases", release.clone(), 200),
        post("releases", json!({ "agent": "web", "version": "3", "name": "web.tar.gz", "sha256": sha }), 400),
        post("releases/withdraw", json!({ "agent": "web", "version": "2.0" }), 200),
        post("releases/withdraw", json!({ "agent": "web", "version": "2.0" }), 404),
        get("releases", "releases", 200),
        post("jobs", json!({ "action": "restart", "agent": "web", "select": "host=web-01", "any_time": true }), 200),
        post("jobs", json!({ "action": "restart", "agent": "web", "select": "host=nobody" }), 400),
        post("jobs/cancel", json!({ "id": "j2" }), 200),
        post("jobs/cancel", json!({ "id": "j99" }), 404),
        post("users", json!({ "name": "anna", "role": "admin", "password": password }), 200),
        post("users", json!({ "name": "anna", "role": "admin", "password": password }), 400),
        post("users", json!({ "name": "bert", "role": "admin", "password": "short" }), 400),
        post("users", json!({ "name": "bert", "role": "viewer", "password": password }), 200),
        post("users/passwd", json!({ "name": "bert", "password": "another horse" }), 200),
        post("users/passwd", json!({ "name": "none", "password": "another horse" }), 404),
        post("users/role", json!({ "name": "bert", "role": "operator" }), 200),
        post("users/role", json!({ "name": "none", "role": "operator" }), 404),
        post("users/role", json!({ "name": "bert", "role": "king" }), 400),
        post("users/disable", who("bert"), 200),
        post("users/disable", who("none"), 404),
        post("users/enable", who("bert"), 200),
        post("users/enable", who("none"), 404),
        get("users", "users", 200),
        post("tokens", json!({ "name": "ci", "role": "operator", "days": 3 }), 200),
        post("tokens", json!({ "name": "ci2", "role": "operator", "days": 0 }), 400),
        post("tokens/revoke", who("ci"), 200),
        post("tokens/revoke", who("ci"), 404),
        get("tokens", "tokens", 200),
        post("webhooks", json!({ "name": "chat", "url": "https://example.com/", "events": ["job"] }), 200),
        post("webhooks", json!({ "name": "chat2", "url": "https://169.254.1.1/" }), 400),
        post("webhooks/test", who("old"), 400),
        post("webhooks/test", who("none"), 404),
        post("webhooks/remove", who("chat"), 200),
        post("webhooks/remove", who("chat"), 404),
        post("me/password", json!({ "old": password, "new": "another horse" }), 400),
    ]
}

/// What is the same for every operation below /api/v1/.
fn ask_in_vain(t: &mut Tester, viewer: &str, admin: &str) {
    let all: Vec<(String, String, bool)> = t
        .doc
        .operations()
        .into_iter()
        .filter(|(_, path, _)| path.starts_with("/api/v1/"))
        .map(|(method, path, operation)| (method, path, operation["responses"]["413"].is_object()))
        .collect();
    let long = format!("{{\"name\":\"{}\"}}", "x".repeat(1 << 20));
    for (method, route, is_json) in all {
        let path = route.replace("{host}", "web-01").replace("{id}", "j1");
        let admin = ("Authorization", admin);
        t.ask(&method, &route, &path, &[], "{}", 401);
        t.ask(&method, &route, &path, &[admin, ("Host", "evil.example.com")], "{}", 421);
        if method == "GET" {
            t.ask(&method, &route, &format!("{path}?surprise=1"), &[admin], "", 400);
        } else if is_json {
            t.ask(&method, &route, &path, &[admin], "{\"surprise\":1}", 400);
            t.ask(&method, &route, &path, &[admin], "{\"surprise\"", 400);
            t.ask(&method, &route, &path, &[admin], "[]", 400);
            t.ask(&method, &route, &path, &[admin], &long, 413);
        }
        let needs_more = method == "POST" && route != "/api/v1/me/password";
        if needs_more || ["users", "tokens", "webhooks"].iter().any(|list| route == format!("/api/v1/{list}")) {
            t.ask(&method, &route, &path, &[("Authorization", viewer)], "{}", 403);
        }
    }
}

/// What only somebody who is logged in can do.
fn ask_with_a_session(t: &mut Tester) {
    let form = "name=anna&password=correct+horse";
    let kind = ("Content-Type", "application/x-www-form-urlencoded");
    let (_, head, _) = t.exchange("POST", "/login", &[kind], form);
    let cookie = head.lines().find_map(|line| line.strip_prefix("set-cookie: ")).expect("a cookie");
    let cookie = ("Cookie", cookie.split(';').next().expect("its value"));
    let (_, _, page) = t.exchange("GET", "/", &[cookie], "");
    let csrf = page.split("name=\"csrf\" value=\"").nth(1).expect("a token").split('"').next().expect("its end");
    let (path, body) = ("/api/v1/me/password", r#"{"old":"correct horse","new":"another horse"}"#);
    t.ask("POST", path, path, &[cookie], body, 403);
    t.ask("POST", path, path, &[cookie, ("X-CSRF-Token", csrf)], body, 200);
}

/// The URL of somebody who takes one message.
fn receiver() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/", listener.local_addr().expect("its address"));
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a message");
        // The head is enough: nobody looks at the rest.
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n");
        // Until the other side has read it and closes.
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    url
}

#[test]
fn the_server_does_what_the_document_says() {
    let server = filled();
    let token = |role: &str| format!("Bearer {}", server.run(&["token", "new", role, "--role", role]).trim());
    let (admin, viewer) = (token("admin"), token("viewer"));
    let mut t = Tester { doc: Doc::read(), server, met: BTreeSet::new(), wrong: Vec::new() };
    let with = [("Authorization", admin.as_str())];
    for (method, route, path, body, status) in requests() {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        t.ask(method, &format!("/api/v1/{route}"), &format!("/api/v1/{path}"), &with, &body, status);
    }
    let (upload, key) = ("/api/v1/packages", "/api/v1/keys/revoke");
    let stored = t.ask("POST", upload, upload, &with, "a package", 200);
    assert_eq!(stored["size"], 9);
    t.ask("POST", upload, upload, &with, "", 400);
    let id = t.ask("GET", "/api/v1/keys", "/api/v1/keys", &with, "", 200)[0]["id"].to_string();
    t.ask("POST", key, key, &with, &format!("{{\"id\":{id}}}"), 200);
    let (taken, test) = ("/api/v1/webhooks", "/api/v1/webhooks/test");
    t.ask("POST", taken, taken, &with, &format!(r#"{{"name":"taken","url":"{}"}}"#, receiver()), 200);
    t.ask("POST", test, test, &with, r#"{"name":"taken"}"#, 200);
    ask_with_a_session(&mut t);
    ask_in_vain(&mut t, &viewer, &admin);
    for path in ["/healthz", "/readyz", "/metrics"] {
        t.ask("GET", path, path, &[], "", 200);
    }
    t.ask("GET", "/metrics", "/metrics", &[("Host", "evil.example.com")], "", 421);
    t.server = Server::start(&["--behind-proxy", "127.0.0.1"]);
    t.ask("GET", "/metrics", "/metrics", &[], "", 401);
    for (method, path, operation) in t.doc.operations() {
        for status in operation["responses"].as_object().expect("responses").keys() {
            let met = t.met.contains(&(method.clone(), path.clone(), status.clone()));
            if !met && !NOT_MET_HERE.contains(&status.as_str()) {
                t.wrong.push(format!("{method} {path}: {status} was not met"));
            }
        }
    }
    assert!(t.wrong.is_empty(), "{}", t.wrong.join("\n"));
}

#[test]
fn every_route_is_in_the_document() {
    let server = Server::start(&[]);
    let token = format!("Authorization: Bearer {}", server.run(&["token", "new", "a", "--role", "viewer"]).trim());
    let request = format!("GET /api/v1/nothing HTTP/1.1\r\nHost: localhost\r\n{token}\r\n\r\n");
    let (status, _, body) = try_exchange(&server.pages, &request).expect("an exchange");
    assert_eq!(status, 404);
    let error = serde_json::from_str::<Value>(&body).expect("JSON")["error"].as_str().expect("a sentence").to_string();
    let (lists, calls) = error.split_once("want GET ").expect(&error).1.split_once("; POST ").expect(&error);
    let named = |method: &str, names: &str| -> Vec<String> {
        names.split(", ").map(|name| format!("{method} /api/v1/{name}")).collect()
    };
    let mut there: BTreeSet<String> = [named("GET", lists), named("POST", calls)].concat().into_iter().collect();
    // It works over the socket only, and says so.
    assert!(there.remove("POST /api/v1/backup"));
    let doc = Doc::read();
    let operations = doc.operations();
    let told = operations.iter().filter(|(_, path, _)| path.starts_with("/api/v1/") && !path.contains('{'));
    let told: BTreeSet<String> = told.map(|(method, path, _)| format!("{method} {path}")).collect();
    assert_eq!(there, told);
}
