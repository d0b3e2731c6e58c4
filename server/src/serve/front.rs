//! The pages' door: what every request there passes before a handler sees it.
//!
//! In this order: the peer, the `Host`, what needs no login, the caller, the `Origin` and the CSRF token of what changes
//! something. Then `/api/v1/` goes to `api`, anything else to `pages`. Every reply gets the headers that keep other sites
//! out.

use super::api::{self, answer_error};
use super::door::{self, header, reply, set, Reply};
use super::{pages, people, Shared};
use crate::model::address::{self, Cidr};
use crate::model::people::{By, Caller};
use crate::store::Error;
use crate::wire::{password, url};
use hyper::body::Incoming;
use hyper::{HeaderMap, Method, Request};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};

/// How the pages' door is set up.
#[derive(Clone, Debug, Default)]
pub struct Front {
    /// Its URL as people type it, such as `https://boot.example.com`.
    pub url: Option<String>,
    /// Proxies in front, which say who the client is.
    pub proxies: Vec<Cidr>,
    /// Whether it speaks TLS itself.
    pub tls: bool,
    /// Whether the metrics need no login: on loopback, with no proxy.
    pub open_metrics: bool,
}

impl Front {
    /// The URL of the pages, without a slash at its end: as people type it, else the address of the door.
    pub fn base(&self, doors: &OnceLock<Vec<SocketAddr>>) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        let door = doors.get().and_then(|doors| doors.last()).map(|door| format!("{scheme}://{door}"));
        self.url.as_deref().map(|url| url.trim_end_matches('/').to_string()).or(door).unwrap_or_default()
    }
}

/// Who sent a request.
#[derive(Clone, Copy, Debug)]
pub struct Client {
    /// The client, as the proxy in front says it.
    pub address: IpAddr,
    /// Whether the client speaks TLS.
    pub https: bool,
}

/// A request as a page's handler gets it. Its CSRF token is checked already.
pub struct Ask {
    pub method: Method,
    /// Without the query; not decoded.
    pub path: String,
    /// Without the question mark; not decoded.
    pub query: String,
    pub headers: HeaderMap,
    /// Nobody only for what needs no login.
    pub caller: Option<Caller>,
    /// The fields of a form, decoded.
    pub form: Vec<(String, String)>,
    /// The body, where it is no form: an upload.
    pub body: Option<Incoming>,
}

impl Ask {
    /// A field of the form; empty without it.
    pub fn field(&self, name: &str) -> &str {
        self.form.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }
}

/// What keeps other sites, and scripts that are not ours, out of every page.
const GUARDS: [(&str, &str); 6] = [
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
         form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "same-origin"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
];

/// Answers a request at the pages' door.
pub async fn handle(shared: Arc<Shared>, peer: SocketAddr, request: Request<Incoming>) -> Reply {
    let mut answer = route(&shared, peer.ip(), request).await;
    for (name, value) in GUARDS {
        set(answer.headers_mut(), name, value);
    }
    if !answer.headers().contains_key("cache-control") {
        set(answer.headers_mut(), "cache-control", "no-store");
    }
    answer
}

fn refuse(status: u16, path: &str, why: &str) -> Reply {
    match path.starts_with("/api/") {
        true => answer_error(status, why),
        false => reply(status, "text/plain; charset=utf-8", format!("{why}\n"), &[]),
    }
}

async fn route(shared: &Arc<Shared>, peer: IpAddr, request: Request<Incoming>) -> Reply {
    let (path, front) = (request.uri().path().to_string(), &shared.front);
    if is_outside(front, peer) {
        return refuse(403, &path, "come through the proxy: this address is not in --behind-proxy");
    }
    let client = client(front, peer, request.headers());
    let get = request.method() == Method::GET || request.method() == Method::HEAD;
    let for_monitors = matches!(path.as_str(), "/healthz" | "/readyz" | "/metrics");
    if for_monitors && !get {
        door::drain(request.into_body()).await;
        return reply(405, "text/plain", "want GET\n", &[("allow", "GET, HEAD".to_string())]);
    }
    if for_monitors && path != "/metrics" {
        return api::health(shared, &path).await;
    }
    // A name that somebody else's DNS points at us must not let their page read ours.
    if !address::is_own_host(header(request.headers(), "host"), front.url.as_deref()) {
        let why = "this name is not ours: use the server's address, localhost, or the name given with --pages-url";
        return refuse(421, &path, why);
    }
    if path == "/metrics" && front.open_metrics {
        return api::health(shared, &path).await;
    }
    if !get && request.method() != Method::POST {
        door::drain(request.into_body()).await;
        return match path.strip_prefix("/api/v1/") {
            Some(name) => api::not_here(name),
            None => reply(405, "text/plain", "want GET or POST\n", &[("allow", "GET, HEAD, POST".to_string())]),
        };
    }
    let caller = match people::caller(shared, request.headers(), client.https).await {
        Ok(caller) => caller,
        Err(Error::Refused(why)) => return unknown(&why),
        Err(error) => return refuse(503, &path, &error.to_string()),
    };
    let by_token = caller.as_ref().is_some_and(|caller| caller.by == By::Token);
    if !get && !by_token && !is_same_origin(front, &client, request.headers()) {
        return refuse(403, &path, "this came from a page of another site");
    }
    if path.starts_with("/api/v1/") || path == "/metrics" {
        return match caller {
            None => unknown("log in, or send a token: Authorization: Bearer TOKEN"),
            Some(_) if path == "/metrics" => api::health(shared, &path).await,
            Some(caller) if !get && !has_csrf(&caller, header(request.headers(), "x-csrf-token")) => {
                refuse(403, &path, "the header X-CSRF-Token is missing or not this session's: load the page again")
            }
            Some(caller) => api::handle(shared.clone(), caller, request).await,
        };
    }
    page(shared, &client, caller, request).await
}

/// Whether a peer goes around the proxy: what it says would cross the network in the clear.
fn is_outside(front: &Front, peer: IpAddr) -> bool {
    !front.tls
        && !front.proxies.is_empty()
        && !peer.is_loopback()
        && !front.proxies.iter().any(|proxy| proxy.contains(peer))
}

fn client(front: &Front, peer: IpAddr, headers: &HeaderMap) -> Client {
    // Some proxies add a line of their own after those of the client: the last word is the proxy's.
    let all = |name: &str| -> String {
        let lines = headers.get_all(name).iter().filter_map(|line| line.to_str().ok());
        lines.collect::<Vec<&str>>().join(",")
    };
    let proxied = front.proxies.iter().any(|proxy| proxy.contains(peer));
    let scheme = all("x-forwarded-proto");
    let last = scheme.rsplit(',').next().unwrap_or_default().trim();
    let https = front.tls || proxied && last.eq_ignore_ascii_case("https");
    Client { address: address::client(peer, &all("x-forwarded-for"), &front.proxies), https }
}

fn unknown(why: &str) -> Reply {
    let mut answer = answer_error(401, why);
    set(answer.headers_mut(), "www-authenticate", "Bearer");
    answer
}

/// Whether a request that changes something comes from a page of ours, as far as the browser says. What is no browser
/// says nothing.
fn is_same_origin(front: &Front, client: &Client, headers: &HeaderMap) -> bool {
    let origin = header(headers, "origin");
    if origin.is_empty() {
        return !headers.contains_key("origin")
            && matches!(header(headers, "sec-fetch-site"), "" | "same-origin" | "none");
    }
    let scheme = if client.https { "https" } else { "http" };
    let own = front.url.as_deref().map(|url| url.trim_end_matches('/'));
    own.is_some_and(|own| own.eq_ignore_ascii_case(origin))
        || origin.eq_ignore_ascii_case(&format!("{scheme}://{}", header(headers, "host")))
}

fn has_csrf(caller: &Caller, given: &str) -> bool {
    match &caller.by {
        By::Session { csrf, .. } => password::same(csrf, given),
        By::Socket | By::Token => true,
    }
}

/// A page, its form, or one of the files that pages are made of.
async fn page(shared: &Arc<Shared>, client: &Client, caller: Option<Caller>, request: Request<Incoming>) -> Reply {
    let (head, body) = request.into_parts();
    let (path, query) = (head.uri.path().to_string(), head.uri.query().unwrap_or_default().to_string());
    let mut ask = Ask { method: head.method, path, query, headers: head.headers, caller, form: Vec::new(), body: None };
    let open = ask.path == "/login" || ask.path.starts_with("/static/");
    if ask.caller.is_none() && !open {
        door::drain(body).await;
        if ask.headers.contains_key("hx-request") {
            // A part of a page that renews itself: the page as a whole goes to the login.
            return reply(401, "text/plain", "log in\n", &[("hx-refresh", "true".to_string())]);
        }
        let whole = if ask.query.is_empty() { ask.path.clone() } else { format!("{}?{}", ask.path, ask.query) };
        let next = if ask.method == Method::POST { String::new() } else { format!("?next={}", url::encode(&whole)) };
        return reply(303, "text/plain", "", &[("location", format!("/login{next}"))]);
    }
    if ask.method != Method::POST {
        return pages::handle(shared, ask).await;
    }
    if header(&ask.headers, "content-type").starts_with("application/x-www-form-urlencoded") {
        match door::read_body(body).await {
            Ok(bytes) => ask.form = url::pairs(&String::from_utf8_lossy(&bytes)),
            Err(_) => return refuse(413, &ask.path, "the form is longer than 1 MiB, or did not come whole"),
        }
    } else {
        ask.body = Some(body);
    }
    if ask.path == "/login" {
        return people::login(shared, client, &ask).await;
    }
    let sent = header(&ask.headers, "x-csrf-token").to_string();
    let given = [sent, ask.field("csrf").to_string(), url::param(&ask.query, "csrf").unwrap_or_default()];
    if !ask.caller.as_ref().is_some_and(|caller| given.iter().any(|given| has_csrf(caller, given))) {
        return refuse(
            403,
            &ask.path,
            "this form is not of this session: go back, load the page again, and send it again",
        );
    }
    if ask.path == "/logout" {
        return people::logout(shared, client, &ask).await;
    }
    pages::handle(shared, ask).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_goes_around_the_proxy() {
        let mut front = Front { proxies: vec!["10.0.0.1".parse().expect("an address")], ..Front::default() };
        let outside = |front: &Front, peer: &str| is_outside(front, peer.parse().expect(peer));
        assert!(outside(&front, "10.0.0.2") && outside(&front, "2001:db8::1"));
        assert!(!outside(&front, "10.0.0.1") && !outside(&front, "127.0.0.1") && !outside(&front, "::ffff:10.0.0.1"));
        front.tls = true;
        assert!(!outside(&front, "10.0.0.2"));
    }

    #[test]
    fn origins() {
        let front = Front { url: Some("https://boot.example.com".to_string()), ..Front::default() };
        let client = Client { address: IpAddr::from([127, 0, 0, 1]), https: false };
        for (origin, site, good) in [
            (None, None, true),
            (None, Some("same-origin"), true),
            (None, Some("cross-site"), false),
            (None, Some("same-site"), false),
            (Some("http://127.0.0.1:8081"), None, true),
            (Some("https://127.0.0.1:8081"), None, false),
            (Some("http://127.0.0.1:9999"), None, false),
            (Some("https://boot.example.com"), Some("same-origin"), true),
            (Some("https://evil.example.com"), None, false),
            (Some("null"), None, false),
            (Some(""), None, false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("host", "127.0.0.1:8081".parse().expect("a header"));
            for (name, value) in [("origin", origin), ("sec-fetch-site", site)] {
                if let Some(value) = value {
                    headers.insert(name, value.parse().expect("a header"));
                }
            }
            assert_eq!(is_same_origin(&front, &client, &headers), good, "{origin:?} {site:?}");
        }
    }
}
