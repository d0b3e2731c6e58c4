//! Users, sessions and tokens at the pages' door of a real server: what is let in, and each case that is not.

mod util;

use serde_json::{json, Value};
use std::fs;
use util::{try_exchange, wait_for, Server};

const PASSWORD: &str = "correct horse";

/// A request at the pages' door: status, head in lower case, body.
fn ask(server: &Server, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> (u16, String, String) {
    let mut request = format!("{method} {path} HTTP/1.1\r\nContent-Length: {}\r\n", body.len());
    if !headers.iter().any(|(name, _)| *name == "Host") {
        request += &format!("Host: {}\r\n", server.pages);
    }
    for (name, value) in headers {
        request += &format!("{name}: {value}\r\n");
    }
    try_exchange(&server.pages, &format!("{request}\r\n{body}")).expect("an exchange")
}

const FORM: (&str, &str) = ("Content-Type", "application/x-www-form-urlencoded");

/// A user with [`PASSWORD`].
fn add_user(server: &Server, name: &str, role: &str) {
    let file = server.dir.join("password");
    fs::write(&file, format!("{PASSWORD}\n")).expect("a file");
    server.run(&["user", "add", name, "--role", role, "--password-file", file.to_str().expect("a path")]);
}

fn try_login(server: &Server, name: &str, password: &str, headers: &[(&str, &str)]) -> (u16, String, String) {
    let body = format!("name={name}&password={}&next=%2Fhosts", password.replace(' ', "+"));
    ask(server, "POST", "/login", &[&[FORM], headers].concat(), &body)
}

/// Logs in: the cookie and the CSRF token.
fn login(server: &Server, name: &str) -> (String, String) {
    login_as(server, name, PASSWORD)
}

fn login_as(server: &Server, name: &str, password: &str) -> (String, String) {
    let (status, head, body) = try_login(server, name, password, &[]);
    assert_eq!(status, 303, "{head}{body}");
    let cookie = head.lines().find_map(|line| line.strip_prefix("set-cookie: ")).expect("a cookie");
    let cookie = cookie.split(';').next().expect("its value").to_string();
    let (status, _, page) = ask(server, "GET", "/", &[("Cookie", &cookie)], "");
    assert_eq!(status, 200);
    let csrf = page.split("name=\"csrf\" value=\"").nth(1).expect("a token").split('"').next().expect("its end");
    (cookie, csrf.to_string())
}

/// A token of a role.
fn token(server: &Server, name: &str, role: &str) -> String {
    format!("Bearer {}", server.run(&["token", "new", name, "--role", role]).trim())
}

fn status_of(answer: &(u16, String, String)) -> u16 {
    answer.0
}

#[test]
fn the_trail_names_the_user_who_works_on_the_directory() {
    use std::os::unix::fs::MetadataExt;
    let mut server = Server::stopped(&[]);
    server.run(&["init"]);
    server.run(&["key", "new", "--group", "web"]);
    server.run(&["group", "new", "db"]);
    add_user(&server, "anna", "admin");
    server.resume();
    server.run(&["group", "new", "app"]);
    let me = format!("local:{}", std::fs::metadata("/proc/self").expect("this process").uid());
    let trail = server.json(&["audit"]);
    assert_eq!(trail.len(), 4, "{trail:?}");
    assert!(trail.iter().all(|line| line["who"] == me.as_str()), "{trail:?}");
}

#[test]
fn without_a_login_nothing_is_seen_or_done() {
    let server = Server::start(&[]);
    for path in ["/api/v1/hosts", "/api/v1/users", "/api/v1/audit", "/api/v1/nothing", "/api/v1/me"] {
        let (status, head, body) = ask(&server, "GET", path, &[], "");
        assert_eq!(status, 401, "{path}: {body}");
        assert!(head.contains("www-authenticate: bearer"), "{head}");
    }
    for path in ["/api/v1/hosts/state", "/api/v1/keys", "/api/v1/packages", "/api/v1/users"] {
        assert_eq!(status_of(&ask(&server, "POST", path, &[], "{}")), 401, "{path}");
    }
    let (status, head, _) = ask(&server, "GET", "/hosts?filter=late", &[], "");
    assert_eq!(status, 303);
    assert!(head.contains("location: /login?next=%2fhosts%3ffilter%3dlate"), "{head}");
    assert_eq!(status_of(&ask(&server, "POST", "/hosts", &[FORM], "a=b")), 303);
    for (path, wanted) in [("/healthz", 200), ("/readyz", 200), ("/metrics", 200), ("/login", 200)] {
        assert_eq!(status_of(&ask(&server, "GET", path, &[], "")), wanted, "{path}");
    }
    for (method, path, allow) in [
        ("DELETE", "/api/v1/hosts", "get, head"),
        ("PUT", "/api/v1/jobs", "get, head, post"),
        ("TRACE", "/", "get, head, post"),
        ("POST", "/metrics", "get, head"),
        ("POST", "/healthz", "get, head"),
    ] {
        let (status, head, _) = ask(&server, method, path, &[], "");
        assert_eq!(status, 405, "{method} {path}");
        assert!(head.contains(&format!("allow: {allow}\r\n")), "{method} {path}: {head}");
    }
    assert!(server.json(&["user", "list"]).is_empty());
}

#[test]
fn a_login_gives_a_session_and_its_end_ends_it() {
    let server = Server::start(&[]);
    add_user(&server, "anna", "admin");
    let (status, head, _) = try_login(&server, "anna", PASSWORD, &[]);
    assert_eq!(status, 303);
    assert!(head.contains("location: /hosts"), "{head}");
    let cookie = head.lines().find(|line| line.starts_with("set-cookie: bootserver=")).expect("a cookie");
    for part in ["httponly", "samesite=lax", "max-age=43200", "path=/"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    assert!(!cookie.contains("secure"), "without TLS a browser would not send it back: {cookie}");
    let (cookie, csrf) = login(&server, "anna");
    let (status, _, me) = ask(&server, "GET", "/api/v1/me", &[("Cookie", &cookie)], "");
    assert_eq!((status, serde_json::from_str::<Value>(&me).expect("JSON")["who"].clone()), (200, json!("user:anna")));
    let form = format!("csrf={csrf}");
    let (status, head, _) = ask(&server, "POST", "/logout", &[FORM, ("Cookie", &cookie)], &form);
    assert_eq!(status, 303);
    assert!(head.contains("max-age=0"), "{head}");
    assert_eq!(status_of(&ask(&server, "GET", "/api/v1/me", &[("Cookie", &cookie)], "")), 401);
    let audit = server.json(&["audit"]);
    let has = |who: &str, action: &str| audit.iter().any(|line| line["who"] == who && line["action"] == action);
    assert!(has("user:anna", "login") && has("user:anna", "logout"), "{audit:?}");
    assert!(audit
        .iter()
        .any(|line| line["action"] == "user add" && line["who"].as_str().is_some_and(|w| w.starts_with("local:"))));
}

#[test]
fn a_wrong_password_is_refused_and_soon_not_looked_at() {
    let server = Server::start(&[]);
    add_user(&server, "anna", "admin");
    assert_eq!(status_of(&try_login(&server, "nobody", PASSWORD, &[])), 401);
    for _ in 0..5 {
        let (status, head, body) = try_login(&server, "anna", "wrong password", &[]);
        assert_eq!(status, 401, "{body}");
        assert!(!head.contains("set-cookie"), "{head}");
        assert!(!body.contains("wrong password"), "{body}");
    }
    let (status, head, _) = try_login(&server, "anna", PASSWORD, &[]);
    assert_eq!(status, 429, "the right one neither");
    assert!(head.contains("retry-after: "), "{head}");
    let refused = server.json(&["audit"]).iter().filter(|line| line["action"] == "login refused").count();
    assert_eq!(refused, 5);
    assert!(server.events().contains("security: too many logins have failed, the last from 127.0.0.1"));
    let (_, _, metrics) = ask(&server, "GET", "/metrics", &[], "");
    for part in ["{answer=\"refused\"} 6\n", "{answer=\"limited\"} 1\n", "{answer=\"taken\"} 0\n"] {
        assert!(metrics.contains(&format!("bootserver_logins_total{part}")), "{metrics}");
    }
}

#[test]
fn other_sites_cannot_use_a_session() {
    let server = Server::start(&["--pages-url", "https://boot.example.com"]);
    add_user(&server, "anna", "admin");
    let (cookie, csrf) = login(&server, "anna");
    let group = |headers: &[(&str, &str)]| {
        let headers = [&[("Cookie", cookie.as_str())], headers].concat();
        status_of(&ask(&server, "POST", "/api/v1/groups", &headers, r#"{"name":"stolen"}"#))
    };
    let csrf = ("X-CSRF-Token", csrf.as_str());
    let own = format!("http://{}", server.pages);
    for (headers, why) in [
        (vec![], "no CSRF token"),
        (vec![("X-CSRF-Token", "")], "an empty one"),
        (vec![("X-CSRF-Token", "0123456789abcdef0123456789abcdef")], "a wrong one"),
        (vec![csrf, ("Origin", "https://evil.example.com")], "another origin"),
        (vec![csrf, ("Origin", "null")], "no origin"),
        (vec![csrf, ("Sec-Fetch-Site", "cross-site")], "another site"),
    ] {
        assert_eq!(group(&headers), 403, "{why}");
    }
    assert_eq!(group(&[csrf, ("Host", "evil.example.com")]), 421, "a name that is not ours");
    let evil = [FORM, ("Cookie", cookie.as_str()), ("Origin", "https://evil.example.com")];
    assert_eq!(status_of(&ask(&server, "POST", "/logout", &evil, &format!("csrf={}", csrf.1))), 403);
    assert_eq!(status_of(&ask(&server, "POST", "/logout", &evil[..2], "csrf=wrong")), 403);
    assert_eq!(status_of(&try_login(&server, "anna", PASSWORD, &[("Origin", "https://evil.example.com")])), 403);
    let groups = || server.json(&["group", "list"]).len();
    assert_eq!(groups(), 0, "nothing was done");
    assert_eq!(group(&[csrf, ("Origin", &own)]), 200);
    assert_eq!(groups(), 1);
    assert_eq!(status_of(&ask(&server, "GET", "/login", &[("Host", "Boot.example.com")], "")), 200);
}

#[test]
fn every_reply_keeps_scripts_and_frames_out() {
    let server = Server::start(&[]);
    for path in ["/login", "/", "/api/v1/hosts", "/healthz", "/nothing"] {
        let (_, head, _) = ask(&server, "GET", path, &[], "");
        for part in [
            "content-security-policy: default-src 'none'; script-src 'self'; ",
            "frame-ancestors 'none'",
            "x-content-type-options: nosniff",
            "cache-control: no-store",
        ] {
            assert!(head.contains(part), "{path}: {head}");
        }
        assert!(!head.contains("unsafe-inline") && !head.contains("access-control-allow-origin"), "{head}");
    }
    let (_, _, page) = ask(&server, "GET", "/login?next=%22%3E%3Cscript%3E", &[], "");
    assert!(page.contains("&#34;&#62;&#60;script&#62;"), "{page}");
}

/// (role, call) that is refused, and what is missing.
#[test]
fn each_role_does_what_it_may() {
    let server = Server::start(&[]);
    let tokens = ["viewer", "operator", "admin"].map(|role| token(&server, role, role));
    let get = |token: &str, list: &str| {
        status_of(&ask(&server, "GET", &format!("/api/v1/{list}"), &[("Authorization", token)], ""))
    };
    let post = |token: &str, call: &str| {
        status_of(&ask(&server, "POST", &format!("/api/v1/{call}"), &[("Authorization", token)], "{}"))
    };
    for list in ["hosts", "jobs", "executions", "releases", "keys", "groups", "events", "audit", "me"] {
        assert_eq!(tokens.each_ref().map(|token| get(token, list)), [200, 200, 200], "{list}");
    }
    for list in ["users", "tokens", "webhooks"] {
        assert_eq!(tokens.each_ref().map(|token| get(token, list)), [403, 403, 200], "{list}");
    }
    // 400: it was let in, and the empty request will not do.
    for call in ["hosts/state", "hosts/replace", "hosts/label", "hosts/group", "releases", "releases/withdraw", "jobs"]
    {
        assert_eq!(tokens.each_ref().map(|token| post(token, call)), [403, 400, 400], "{call}");
    }
    for call in ["groups", "groups/set", "keys", "keys/revoke", "users", "tokens", "webhooks"] {
        assert_eq!(tokens.each_ref().map(|token| post(token, call)), [403, 403, 400], "{call}");
    }
    let (status, _, body) = ask(&server, "POST", "/api/v1/jobs", &[("Authorization", &tokens[0])], "{}");
    assert_eq!(status, 403);
    assert!(body.contains("needs the role operator, and token:viewer has viewer"), "{body}");
    let backup = r#"{"file":"/tmp/stolen.db"}"#;
    assert_eq!(status_of(&ask(&server, "POST", "/api/v1/backup", &[("Authorization", &tokens[2])], backup)), 403);
    assert_eq!(get(&tokens[2], "nothing"), 404);
    assert_eq!(post(&tokens[2], "nothing"), 404);
}

#[test]
fn a_viewer_does_nothing_by_the_pages_either() {
    let server = Server::start(&[]);
    let key = server.key(&["--group", "web", "--auto-accept"]);
    util::Host::new("web-01", "sn-1", Some(&key)).report(&server);
    add_user(&server, "vera", "viewer");
    add_user(&server, "olga", "operator");
    let before = server.json(&["audit"]).len();
    let forms = [
        ("/hosts/sn-1/reject", ""),
        ("/hosts/sn-1/retire", ""),
        ("/hosts/sn-1/labels", "labels=a%3Db"),
        ("/hosts/sn-1/pin", "reason=x"),
        ("/pending", "do=accept&host=sn-1"),
        ("/jobs/new", "do=give&action=restart&agent=web&select=host%3Dweb-01"),
        ("/jobs/j1/cancel", ""),
        ("/releases/withdraw", "agent=web&version=1"),
    ];
    let admin_forms = [
        ("/keys", "group=web"),
        ("/keys/revoke", "id=1"),
        ("/groups", "name=db"),
        ("/groups/set", "name=web&lost_after=60"),
        ("/users", "name=eve&role=admin&password=correct+horse"),
        ("/users/role", "name=vera&role=admin"),
        ("/users/passwd", "name=olga&password=another+horse"),
        ("/users/disable", "name=olga"),
        ("/users/tokens", "token=eve&role=admin&days=3"),
    ];
    for (name, refused) in [("vera", [&forms[..], &admin_forms[..]].concat()), ("olga", admin_forms.to_vec())] {
        let (cookie, csrf) = login(&server, name);
        for (path, form) in refused {
            let body = format!("csrf={csrf}&{form}");
            let (status, _, page) = ask(&server, "POST", path, &[FORM, ("Cookie", &cookie)], &body);
            assert_eq!(status, 403, "{name} {path}: {}", page.len());
        }
        for path in ["/users", "/users.csv", "/webhooks", "/api/v1/users"] {
            let (status, _, page) = ask(&server, "GET", path, &[("Cookie", &cookie)], "");
            assert!(matches!(status, 403 | 404), "{name} {path}: {status}");
            let other = if name == "vera" { "olga" } else { "vera" };
            assert!(!page.contains(other), "{name} sees {other}: {page}");
        }
        assert_eq!(status_of(&ask(&server, "GET", "/hosts", &[("Cookie", &cookie)], "")), 200);
    }
    let (cookie, csrf) = login(&server, "vera");
    let kind = ("Content-Type", "multipart/form-data; boundary=x");
    let part = "--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.tar.gz\"\r\n\r\nbytes\r\n--x--\r\n";
    let headers = [kind, ("Cookie", cookie.as_str())];
    for (query, why) in [("", "no CSRF token"), ("?csrf=wrong", "a wrong one"), (&format!("?csrf={csrf}"), "a viewer")]
    {
        assert_eq!(status_of(&ask(&server, "POST", &format!("/releases/new{query}"), &headers, part)), 403, "{why}");
    }
    let stored = fs::read_dir(server.dir.join("packages")).expect("the directory").count();
    assert_eq!(stored, 0, "nothing was stored");
    let done: Vec<Value> = server.json(&["audit"]).split_off(before);
    assert!(done.iter().all(|line| line["action"] == "login"), "{done:?}");
}

/// Both take the 10 s that the server waits.
#[test]
fn what_a_form_made_is_shown_once_and_what_was_refused_stays_in_it() {
    let server = Server::start(&[]);
    add_user(&server, "anna", "admin");
    let (cookie, csrf) = login(&server, "anna");
    let send = |path: &str, form: &str| {
        ask(&server, "POST", path, &[FORM, ("Cookie", &cookie)], &format!("csrf={csrf}&{form}"))
    };
    for (path, form, said, list) in [
        ("/keys", "group=web", "is made.", "/keys"),
        ("/users/tokens", "token=ci&role=viewer&days=3", "Token ci is made.", "/users"),
        (
            "/webhooks",
            "name=chat&url=https%3A%2F%2Fchat.example.org%2Fx&events=job",
            "Webhook chat is added.",
            "/webhooks",
        ),
    ] {
        let (status, _, page) = send(path, form);
        let secret = page.split("class=\"secret\" tabindex=\"0\">").nth(1).and_then(|rest| rest.split('<').next());
        let secret = secret.unwrap_or_default();
        assert!(status == 200 && page.contains(said) && secret.len() > 20, "{path}: {status} {page}");
        let (_, _, page) = ask(&server, "GET", list, &[("Cookie", &cookie)], "");
        assert!(!page.contains(secret) && page.contains("<tbody>"), "{path}: {page}");
    }
    for (path, form, kept) in [
        ("/keys", "group=no+name", "value=\"no name\""),
        ("/groups", "name=no+name", "value=\"no name\""),
        ("/users/tokens", "token=ci&role=viewer&days=3", "value=\"ci\""),
        ("/webhooks", "name=mail&url=ftp%3A%2F%2Fx&events=job", "value=\"ftp://x\""),
    ] {
        let (status, _, page) = send(path, form);
        assert!(status == 400 && page.contains("role=\"alert\"") && page.contains(kept), "{path}: {status} {page}");
    }
}

#[test]
fn what_does_not_come_and_what_cannot_be_stored_is_said() {
    let server = Server::start(&[]);
    let admin = token(&server, "admin", "admin");
    let other = rusqlite::Connection::open(server.dir.join("bootserver.db")).expect("the database");
    other.execute_batch("BEGIN IMMEDIATE").expect("a lock");
    let (busy, cut) = std::thread::scope(|scope| {
        let post = |length: usize| {
            let request = format!(
                "POST /api/v1/groups HTTP/1.1\r\nHost: localhost\r\nAuthorization: {admin}\r\nContent-Length: {length}\r\n\r\n\
                 {{\"name\":\"db\"}}"
            );
            let pages = &server.pages;
            scope.spawn(move || try_exchange(pages, &request).expect("an answer"))
        };
        let (busy, cut) = (post(13), post(14));
        (busy.join().expect("an answer"), cut.join().expect("an answer"))
    });
    let look = ask(&server, "GET", "/api/v1/hosts", &[("Authorization", &admin)], "");
    assert_eq!(look.0, 200, "who looks is let in: {look:?}");
    assert_eq!((busy.0, cut.0), (503, 408), "{busy:?} {cut:?}");
    assert!(cut.2.contains("did not come whole"), "{cut:?}");
    other.execute_batch("ROLLBACK").expect("no lock");
    assert!(server.json(&["group", "list"]).is_empty(), "neither was kept");
}

#[test]
fn a_token_has_an_end_and_can_be_revoked() {
    let server = Server::start(&[]);
    let made = token(&server, "ci", "operator");
    let get = |token: &str| status_of(&ask(&server, "GET", "/api/v1/me", &[("Authorization", token)], ""));
    assert_eq!(get(&made), 200);
    for bad in ["Bearer bst_0", "Bearer ", "Basic YTpi", &made.replace("Bearer ", ""), &made[..made.len() - 1]] {
        assert_eq!(get(bad), 401, "{bad}");
    }
    assert_eq!(server.try_run(&["token", "new", "ci", "--role", "admin"]).0, 1, "the name is taken");
    for days in ["0", "-1", "3651"] {
        let days = format!("--days={days}");
        assert_eq!(server.try_run(&["token", "new", "forever", "--role", "admin", &days]).0, 1, "{days}");
    }
    let listed = server.json(&["token", "list"]);
    assert!(!listed[0].to_string().contains(made.trim_start_matches("Bearer ")), "{listed:?}");
    assert_eq!((&listed[0]["state"], &listed[0]["role"]), (&json!("valid"), &json!("operator")));
    wait_for("its use is kept", || server.json(&["token", "list"])[0]["seen"].as_i64());
    server.run(&["token", "revoke", "ci"]);
    assert_eq!(get(&made), 401);
    assert_ne!(made, token(&server, "ci", "operator"), "its name is free again");
}

#[test]
fn a_changed_user_must_log_in_again() {
    let server = Server::start(&[]);
    add_user(&server, "anna", "admin");
    add_user(&server, "bert", "operator");
    let me = |cookie: &str| status_of(&ask(&server, "GET", "/api/v1/me", &[("Cookie", cookie)], ""));
    for words in
        [vec!["user", "role", "bert", "viewer"], vec!["user", "passwd", "bert"], vec!["user", "disable", "bert"]]
    {
        // `passwd` made a new password: the known one again.
        let file = server.dir.join("password");
        server.run(&["user", "passwd", "bert", "--password-file", file.to_str().expect("a path")]);
        let (cookie, _) = login(&server, "bert");
        assert_eq!(me(&cookie), 200, "{words:?}");
        server.run(&words);
        assert_eq!(me(&cookie), 401, "{words:?}");
    }
    assert_eq!(status_of(&try_login(&server, "bert", PASSWORD, &[])), 401, "disabled");
    let (cookie, csrf) = login(&server, "anna");
    let post = |call: &str, body: Value| {
        let headers = [("Cookie", cookie.as_str()), ("X-CSRF-Token", csrf.as_str())];
        ask(&server, "POST", &format!("/api/v1/{call}"), &headers, &body.to_string())
    };
    let (status, _, body) = post("users/role", json!({ "name": "anna", "role": "viewer" }));
    assert_eq!(status, 400);
    assert!(body.contains("last admin"), "{body}");
    assert_eq!(status_of(&post("users/disable", json!({ "name": "anna" }))), 400);
    assert_eq!(status_of(&post("users/disable", json!({ "name": "nobody" }))), 404);
    assert_eq!(status_of(&post("me/password", json!({ "old": "wrong", "new": "another horse" }))), 400);
    assert_eq!(status_of(&post("me/password", json!({ "old": PASSWORD, "new": "short" }))), 400);
    assert_eq!(status_of(&post("me/password", json!({ "old": PASSWORD, "new": "another horse" }))), 200);
    let (cookie, csrf) = login_as(&server, "anna", "another horse");
    let headers = [("Cookie", cookie.as_str()), ("X-CSRF-Token", csrf.as_str())];
    let guess = json!({ "old": "wrong", "new": "a third horse" }).to_string();
    let guess = || ask(&server, "POST", "/api/v1/me/password", &headers, &guess).2;
    let guesses: Vec<String> = (0..6).map(|_| guess()).collect();
    assert!(guesses[0].contains("not your password") && guesses[5].contains("too many"), "{guesses:?}");
    let (cookie, _) = login_as(&server, "anna", "another horse");
    server.run(&["user", "passwd", "anna"]);
    assert_eq!(me(&cookie), 401);
    assert_eq!(status_of(&try_login(&server, "anna", "another horse", &[])), 401);
    let changed = server.json(&["audit"]).into_iter().find(|line| line["action"] == "user role").expect("a line");
    assert_eq!((&changed["before"], &changed["after"]), (&json!("operator"), &json!("viewer")));
}

#[test]
fn users_and_tokens_need_no_server() {
    let mut server = Server::start(&[]);
    server.kill();
    add_user(&server, "anna", "admin");
    let (code, _, error) = server.try_run(&["user", "add", "anna", "--role", "admin"]);
    assert_eq!(code, 1);
    assert!(error.contains("there is a user \"anna\" already"), "{error}");
    for (words, part) in [
        (["user", "add", "a b", "--role", "admin"], "want 1 to 64"),
        (["user", "add", "bert", "--role", "king"], "want viewer, operator or admin"),
        (["token", "new", "x", "--role", "king"], "want viewer, operator or admin"),
        (["user", "add", "bert", "--role", "admin"], ""),
    ] {
        let (code, out, error) = server.try_run(&words);
        assert_eq!(code, i32::from(!part.is_empty()), "{words:?} {out}");
        assert!(error.contains(part), "{words:?}: {error}");
    }
    let file = server.dir.join("short");
    fs::write(&file, "short\n").expect("a file");
    let path = file.to_str().expect("a path");
    let (code, _, error) = server.try_run(&["user", "add", "carl", "--role", "viewer", "--password-file", path]);
    assert_eq!(code, 1);
    assert!(error.contains("want 10 characters") && !error.contains("short"), "{error}");
    let made = token(&server, "ci", "viewer");
    assert_eq!(server.json(&["user", "list"]).len(), 2);
    let database = fs::read(server.dir.join("bootserver.db")).expect("the database");
    let kept = |text: &str| database.windows(text.len()).any(|part| part == text.as_bytes());
    assert!(kept("$argon2id$v=19$"), "the hash is there");
    assert!(!kept(PASSWORD) && !kept(made.trim_start_matches("Bearer ")), "the secrets are not");
    server.resume();
    assert_eq!(status_of(&ask(&server, "GET", "/api/v1/me", &[("Authorization", &made)], "")), 200);
    login(&server, "anna");
}

#[test]
fn doctor_tells_of_tokens_that_end_soon() {
    let server = Server::start(&[]);
    server.key(&["--group", "web"]);
    add_user(&server, "anna", "admin");
    let (code, out, _) = server.try_run(&["doctor"]);
    assert_eq!(code, 0, "{out}");
    assert!(out.contains("1 admins can log in") && out.contains("0 tokens end within 7 days"), "{out}");
    server.run(&["token", "new", "ci", "--role", "viewer", "--days", "3"]);
    let (code, out, _) = server.try_run(&["doctor"]);
    assert_eq!(code, 1, "{out}");
    assert!(out.contains("FAULT 1 tokens end within 7 days: bootserver token list"), "{out}");
}

#[test]
fn a_restored_backup_has_no_sessions() {
    let mut server = Server::start(&[]);
    add_user(&server, "anna", "admin");
    let (cookie, _) = login(&server, "anna");
    let file = server.dir.join("backup.db");
    server.run(&["backup", file.to_str().expect("a path")]);
    server.kill();
    server.run(&["restore", file.to_str().expect("a path")]);
    server.resume();
    assert_eq!(status_of(&ask(&server, "GET", "/api/v1/me", &[("Cookie", &cookie)], "")), 401);
    login(&server, "anna");
}
