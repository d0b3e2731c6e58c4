//! Who asks at the pages' door: sessions and tokens, logging in and out.
//!
//! A page's or an API's handler needs nothing of this: `front` has checked the `Host` and `Origin` headers, found the
//! [`Caller`] and, for requests that change something, compared the CSRF token, before it calls the handler. What a handler
//! does with the caller:
//!
//! - `caller.may(Role::Operator)?` before it changes something; the API's calls have their roles in `model::people`.
//! - `caller.who` is what goes to the audit trail, as the `who` of every function that changes something.
//! - each form has `<input type="hidden" name="csrf" value="{caller.csrf()}">`, and scripts send the same value in the
//!   header `X-CSRF-Token`.

use super::door::{header, reply, Reply};
use super::front::{Ask, Client};
use super::{clock, pages, Shared};
use crate::model::address;
use crate::model::people::{By, Caller, Limiter, SESSION};
use crate::store::{events, people, Error};
use crate::wire::password;
use hyper::HeaderMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;

/// Passwords that are hashed at one time: each takes 19 MiB.
const HASHING: usize = 2;
/// How long a login may wait for its turn.
const TURN: Duration = Duration::from_secs(5);
/// A token's use is kept to the hour, so that it costs no write each time.
const SEEN_EACH: i64 = 3600;

/// What logins share.
pub struct Logins {
    limiter: Mutex<Limiter>,
    hashing: Arc<Semaphore>,
    /// A hash that no password has, so that an unknown name takes as long as a known one.
    nobody: String,
}

impl Default for Logins {
    fn default() -> Logins {
        let nobody = password::hash(&clock::secret(), clock::salt());
        Logins { limiter: Mutex::default(), hashing: Arc::new(Semaphore::new(HASHING)), nobody }
    }
}

impl Logins {
    fn limiter(&self) -> std::sync::MutexGuard<'_, Limiter> {
        self.limiter.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an attempt to show a password, before it is looked at.
    ///
    /// # Errors
    /// How many seconds to wait, as too many have failed.
    pub fn attempt(&self, name: &str, place: &str, now: i64) -> Result<(), i64> {
        self.limiter().attempt(name, place, now)
    }

    /// Takes back an attempt whose password was right.
    pub fn succeeded(&self, name: &str, place: &str) {
        self.limiter().succeeded(name, place);
    }
}

/// The name of the session's cookie. The prefix makes browsers hold it to this host and to TLS.
fn cookie_name(https: bool) -> &'static str {
    if https {
        "__Host-bootserver"
    } else {
        "bootserver"
    }
}

/// The secret of the session's cookie; empty without one.
fn cookie(headers: &HeaderMap, https: bool) -> &str {
    let name = cookie_name(https);
    let lines = headers.get_all("cookie").iter().filter_map(|line| line.to_str().ok());
    let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(key, _)| *key == name).map_or("", |(_, value)| value)
}

fn set_cookie(https: bool, value: &str, seconds: i64) -> (&'static str, String) {
    let (name, secure) = (cookie_name(https), if https { "; Secure" } else { "" });
    ("set-cookie", format!("{name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}"))
}

/// Finds out who asks: the bearer of a token, else the user of a session, else nobody.
///
/// # Errors
/// What the engine says; `Refused` for a token that is not valid.
pub async fn caller(shared: &Arc<Shared>, headers: &HeaderMap, https: bool) -> Result<Option<Caller>, Error> {
    let now = clock::now();
    let authorization = header(headers, "authorization");
    if !authorization.is_empty() {
        let secret = authorization.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        let id = password::digest(secret.map_or("", |(_, secret)| secret.trim()));
        let Some(token) = shared.read_now(|tx| people::token(tx, &id, now))? else {
            return Err(Error::Refused("the token is not known, revoked or at its end".to_string()));
        };
        if token.seen.is_none_or(|seen| now - seen >= SEEN_EACH) {
            // Nobody waits for it: who looks around on a full disk must be let in.
            let (shared, id) = (shared.clone(), token.id.clone());
            tokio::spawn(async move {
                if let Err(error) = shared.write(move |tx| people::token_seen(tx, &id, now)).await {
                    shared.complain(&error);
                }
            });
        }
        return Ok(Some(Caller { who: format!("token:{}", token.name), role: token.role, by: By::Token }));
    }
    let secret = cookie(headers, https);
    if secret.is_empty() {
        return Ok(None);
    }
    let (id, csrf) = (password::digest(secret), password::derive(secret, "csrf"));
    let user = shared.read_now(|tx| people::session(tx, &id, now))?;
    Ok(user.map(|user| {
        let who = format!("user:{}", user.name);
        Caller { who, role: user.role, by: By::Session { user: user.name, csrf } }
    }))
}

/// Takes the form of the login page: `name`, `password`, and `next`, the path to go to.
pub async fn login(shared: &Arc<Shared>, client: &Client, ask: &Ask) -> Reply {
    let (name, given, next) = (ask.field("name").to_string(), ask.field("password"), own_path(ask.field("next")));
    let (peer, network) = (client.address.to_string(), address::network(client.address));
    if let Err(wait) = shared.logins.attempt(&name, &network, clock::now()) {
        shared.counts.logins_limited.fetch_add(1, Ordering::Relaxed);
        alarm(shared, &peer).await;
        let text = format!("Too many logins have failed. Try again in {} minutes.", wait / 60 + 1);
        let mut answer = pages::login(429, next, &text);
        super::door::set(answer.headers_mut(), "retry-after", &wait.to_string());
        return answer;
    }
    match check(shared, &name, given).await {
        Err(error) => pages::login(503, next, &format!("Cannot log in now: {error}.")),
        Ok(false) => {
            shared.counts.logins_refused.fetch_add(1, Ordering::Relaxed);
            refuse(shared, &name, &peer).await;
            pages::login(401, next, "This name and password do not fit, or the user is disabled.")
        }
        Ok(true) => {
            shared.counts.logins.fetch_add(1, Ordering::Relaxed);
            shared.logins.succeeded(&name, &network);
            match begin(shared, name, peer).await {
                Ok(secret) => {
                    let cookie = set_cookie(client.https, &secret, SESSION);
                    reply(303, "text/plain", "", &[cookie, ("location", next.to_string())])
                }
                Err(error) => pages::login(503, next, &format!("Cannot log in now: {error}.")),
            }
        }
    }
}

/// Tells of logins that are no longer looked at: an event, so that a webhook can tell it too; once in ten minutes.
async fn alarm(shared: &Arc<Shared>, peer: &str) {
    static TOLD: AtomicI64 = AtomicI64::new(0);
    let now = clock::now();
    let told = TOLD.load(Ordering::Relaxed);
    if now - told < 600 || TOLD.compare_exchange(told, now, Ordering::Relaxed, Ordering::Relaxed).is_err() {
        return;
    }
    let text = format!("too many logins have failed, the last from {peer}: see bootserver audit");
    clock::say(&text);
    if let Err(error) = shared.write(move |tx| events::note(tx, now, "security", ("", ""), &text, 0)).await {
        shared.complain(&error);
    }
}

/// A path of ours to go to after the login; another site's address becomes the first page.
fn own_path(next: &str) -> &str {
    let plain =
        next.starts_with('/') && !next.starts_with("//") && next.bytes().all(|b| b.is_ascii_graphic() && b != b'\\');
    if plain {
        next
    } else {
        "/"
    }
}

/// Whether a password is the user's. An unknown name takes as long as a known one.
///
/// # Errors
/// What the engine says, or that too many log in at one time.
pub async fn check(shared: &Arc<Shared>, name: &str, given: &str) -> Result<bool, Error> {
    let place = tokio::time::timeout(TURN, shared.logins.hashing.clone().acquire_owned()).await;
    let Ok(Ok(place)) = place else { return Err(Error::Busy) };
    let user = shared.read_now(|tx| people::user(tx, name))?.filter(|user| user.disabled.is_none());
    let (known, kept) = match user {
        Some(user) => (true, user.password),
        None => (false, shared.logins.nobody.clone()),
    };
    let given = given.to_string();
    let task = tokio::task::spawn_blocking(move || {
        let _place = place;
        password::is_right(&given, &kept)
    });
    Ok(task.await.unwrap_or(false) && known)
}

/// Notes a login that failed: in the audit trail where the user is known, else in the log.
async fn refuse(shared: &Arc<Shared>, name: &str, peer: &str) {
    let (name, from) = (name.to_string(), format!("from {peer}"));
    let noted = shared
        .write(move |tx| match people::user(tx, &name)? {
            Some(user) => {
                let object = format!("user {}", user.name);
                events::audit(tx, clock::now(), "-", "login refused", &object, ("", &from))
            }
            None => {
                clock::say(&format!("refused a login {from}: there is no such user"));
                Ok(())
            }
        })
        .await;
    if let Err(error) = noted {
        shared.complain(&error);
    }
}

/// Begins a session; its secret.
async fn begin(shared: &Arc<Shared>, name: String, peer: String) -> Result<String, Error> {
    let secret = clock::secret();
    let id = password::digest(&secret);
    shared
        .write(move |tx| {
            let now = clock::now();
            people::add_session(tx, &id, &name, &peer, now, now + SESSION)?;
            let (who, object) = (format!("user:{name}"), format!("user {name}"));
            events::audit(tx, now, &who, "login", &object, ("", &format!("from {peer}")))
        })
        .await?;
    Ok(secret)
}

/// Ends the session of a request.
pub async fn logout(shared: &Arc<Shared>, client: &Client, ask: &Ask) -> Reply {
    let id = password::digest(cookie(&ask.headers, client.https));
    let who = ask.caller.as_ref().map(|caller| caller.who.clone()).unwrap_or_default();
    let ended = shared
        .write(move |tx| {
            people::end_session(tx, &id)?;
            events::audit(tx, clock::now(), &who, "logout", &who.replace("user:", "user "), ("", ""))
        })
        .await;
    match ended {
        Ok(()) => {
            let cookie = set_cookie(client.https, "", 0);
            reply(303, "text/plain", "", &[cookie, ("location", "/login".to_string())])
        }
        Err(error) => reply(503, "text/plain", format!("cannot log out now: {error}\n"), &[]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_leads_to_no_other_site() {
        assert_eq!(own_path("/hosts?filter=late"), "/hosts?filter=late");
        for bad in ["", "hosts", "//evil.example", "/\\evil.example", "https://evil.example", "/a\r\nb", "/\t/evil"] {
            assert_eq!(own_path(bad), "/", "{bad:?}");
        }
    }

    #[test]
    fn only_the_cookie_of_its_scheme_counts() {
        let mut headers = HeaderMap::new();
        headers.insert("cookie", "a=b; bootserver=plain; __Host-bootserver=secure".parse().expect("a header"));
        assert_eq!((cookie(&headers, false), cookie(&headers, true)), ("plain", "secure"));
    }
}
