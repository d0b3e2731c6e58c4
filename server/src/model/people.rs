//! People and programs that use the server: what each may do, what names and passwords look like, how long a login lasts,
//! and how often one may fail. Nothing here knows a clock or a network.

use std::collections::HashMap;

/// How long a session lasts, in seconds.
pub const SESSION: i64 = 12 * 3600;
/// The longest life of a token, in days.
pub const TOKEN_DAYS_MAX: i64 = 3650;
/// The shortest password, in characters.
pub const PASSWORD_MIN: usize = 10;
/// The longest password, in bytes: hashing must stay bounded.
const PASSWORD_MAX: usize = 256;

/// What somebody may do; each may do all that the ones before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Look.
    Viewer,
    /// Decide about hosts, and give jobs and releases.
    Operator,
    /// Keys, groups, users, tokens and webhooks.
    Admin,
}

impl Role {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Viewer => "viewer",
            Role::Operator => "operator",
            Role::Admin => "admin",
        }
    }

    /// Reads a role.
    ///
    /// # Errors
    /// What is wanted.
    pub fn parse(text: &str) -> Result<Role, String> {
        match text {
            "viewer" => Ok(Role::Viewer),
            "operator" => Ok(Role::Operator),
            "admin" => Ok(Role::Admin),
            _ => Err(format!("role \"{text}\": want viewer, operator or admin")),
        }
    }
}

/// How a caller showed who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum By {
    /// Over the socket in the data directory: the server's own user, or root.
    Socket,
    /// With a token in the `Authorization` header.
    Token,
    /// With a session's cookie. `csrf` must come with each request that changes something.
    Session {
        /// The user.
        user: String,
        /// What no other site can know.
        csrf: String,
    },
}

/// Who asks. Every handler of the API and of pages gets one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// As the audit trail names it: `local:UID`, `user:NAME` or `token:NAME`.
    pub who: String,
    /// What it may do.
    pub role: Role,
    /// How it showed who it is.
    pub by: By,
}

impl Caller {
    /// Somebody at the socket, who may do everything.
    pub fn local(uid: u32) -> Caller {
        Caller { who: format!("local:{uid}"), role: Role::Admin, by: By::Socket }
    }

    /// Checks that the caller may do what `wanted` may.
    ///
    /// # Errors
    /// A sentence that says what is missing.
    pub fn may(&self, wanted: Role) -> Result<(), String> {
        match self.role >= wanted {
            true => Ok(()),
            false => Err(format!(
                "this needs the role {}, and {} has {}: ask an admin",
                wanted.as_str(),
                self.who,
                self.role.as_str()
            )),
        }
    }

    /// The CSRF token to put into forms; empty where none is needed.
    pub fn csrf(&self) -> &str {
        match &self.by {
            By::Session { csrf, .. } => csrf,
            By::Socket | By::Token => "",
        }
    }

    /// The user who is logged in.
    pub fn user(&self) -> Option<&str> {
        match &self.by {
            By::Session { user, .. } => Some(user),
            By::Socket | By::Token => None,
        }
    }
}

/// The role that looking at a list of the API needs.
pub fn role_to_see(list: &str) -> Role {
    match list.split('/').next().unwrap_or_default() {
        "users" | "tokens" | "webhooks" => Role::Admin,
        _ => Role::Viewer,
    }
}

/// The role that a change by the API needs. What is not named here needs an admin.
pub fn role_to_change(call: &str) -> Role {
    match call.split('/').next().unwrap_or_default() {
        "me" => Role::Viewer,
        "hosts" | "jobs" | "releases" | "packages" | "policies" | "rollouts" => Role::Operator,
        _ => Role::Admin,
    }
}

/// Checks the name of a user or a token.
///
/// # Errors
/// What is wanted.
pub fn check_name(what: &str, name: &str) -> Result<(), String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._@-".contains(&b);
    match (1..=64).contains(&name.len()) && name.bytes().all(plain) {
        true => Ok(()),
        false => Err(format!("{what} \"{name}\": want 1 to 64 of A-Z a-z 0-9 . _ @ -")),
    }
}

/// Checks a password before it is taken.
///
/// # Errors
/// What is wanted; never the password.
pub fn check_password(name: &str, password: &str) -> Result<(), String> {
    let lower = password.to_lowercase();
    if password.chars().count() < PASSWORD_MIN || password.len() > PASSWORD_MAX {
        return Err(format!("the password: want {PASSWORD_MIN} characters to {PASSWORD_MAX} bytes"));
    }
    if password.chars().any(char::is_control) {
        return Err("the password: want no control characters".to_string());
    }
    let first = lower.chars().next();
    if lower.contains(&name.to_lowercase()) && name.len() > 3 || lower.chars().all(|c| Some(c) == first) {
        return Err("the password: it must not contain the user's name or be one character repeated".to_string());
    }
    Ok(())
}

/// (failures that are allowed, in so many seconds) for one name from one address, for one address, and for one name.
const LIMITS: [(u32, i64); 3] = [(5, 300), (20, 300), (200, 3600)];
/// Names and addresses that are remembered at one time.
const REMEMBERED_MAX: usize = 20_000;

/// Counts logins that failed. A guess from one address is stopped soon, one from many addresses later.
#[derive(Debug, Default)]
pub struct Limiter {
    /// (limit, name or address) -> (begin, failures)
    failures: HashMap<(usize, String), (i64, u32)>,
}

impl Limiter {
    /// Counts an attempt before its password is looked at, as a failure; `succeeded` takes it back. So many attempts at
    /// one time are no way around the limit.
    ///
    /// # Errors
    /// How many seconds to wait.
    pub fn attempt(&mut self, name: &str, address: &str, now: i64) -> Result<(), i64> {
        let keys = keys(name, address);
        for (place, key) in keys.iter().enumerate() {
            let (allowed, seconds) = LIMITS[place];
            if let Some((begin, count)) = self.failures.get(key) {
                let left = begin + seconds - now;
                if (1..=seconds).contains(&left) && *count >= allowed {
                    return Err(left);
                }
            }
        }
        if self.failures.len() > REMEMBERED_MAX {
            self.failures.retain(|(place, _), (begin, _)| now - *begin < LIMITS[*place].1);
            if self.failures.len() > REMEMBERED_MAX {
                return Err(60);
            }
        }
        for (place, key) in keys.into_iter().enumerate() {
            let entry = self.failures.entry(key).or_insert((now, 0));
            if !(0..LIMITS[place].1).contains(&(now - entry.0)) {
                *entry = (now, 0);
            }
            entry.1 += 1;
        }
        Ok(())
    }

    /// Takes back an attempt whose password was right.
    pub fn succeeded(&mut self, name: &str, address: &str) {
        let [pair, address, name] = keys(name, address);
        self.failures.remove(&pair);
        for key in [address, name] {
            if let Some((_, count)) = self.failures.get_mut(&key) {
                *count = count.saturating_sub(1);
            }
        }
    }
}

fn keys(name: &str, address: &str) -> [(usize, String); 3] {
    let name: String = name.to_lowercase().chars().take(64).collect();
    [(0, format!("{address} {name}")), (1, address.to_string()), (2, name)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_may_do_what_the_ones_before_it_may() {
        let caller = |role| Caller { who: "user:a".to_string(), role, by: By::Token };
        for (role, wanted, may) in [
            (Role::Viewer, Role::Viewer, true),
            (Role::Viewer, Role::Operator, false),
            (Role::Operator, Role::Viewer, true),
            (Role::Operator, Role::Admin, false),
            (Role::Admin, Role::Operator, true),
        ] {
            assert_eq!(caller(role).may(wanted).is_ok(), may, "{role:?} {wanted:?}");
        }
    }

    #[test]
    fn what_is_not_known_needs_an_admin() {
        assert_eq!(role_to_change("hosts/state"), Role::Operator);
        assert_eq!(role_to_change("keys"), Role::Admin);
        assert_eq!(role_to_change("anything"), Role::Admin);
        assert_eq!(role_to_see("users"), Role::Admin);
        assert_eq!(role_to_see("hosts/web-01"), Role::Viewer);
    }

    #[test]
    fn names_and_passwords() {
        assert!(check_name("user", "anna.b@example-1").is_ok());
        for bad in ["", "a b", "local:0", "a/b", "ä"] {
            assert!(check_name("user", bad).is_err(), "{bad}");
        }
        assert!(check_password("anna", "correct horse").is_ok());
        for bad in ["short", "aaaaaaaaaaaa", "i-am-Anna-b", "tab\tand more"] {
            assert!(check_password("anna", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_login_may_fail_five_times() {
        let mut limiter = Limiter::default();
        for _ in 0..5 {
            assert_eq!(limiter.attempt("anna", "10.0.0.1", 100), Ok(()));
        }
        assert_eq!(limiter.attempt("Anna", "10.0.0.1", 160), Err(240));
        assert_eq!(limiter.attempt("anna", "10.0.0.2", 160), Ok(()), "somebody else's guesses lock nobody out");
        assert_eq!(limiter.attempt("anna", "10.0.0.1", 400), Ok(()));
    }

    #[test]
    fn one_address_and_one_name_have_their_limits() {
        let mut limiter = Limiter::default();
        let tried = (0..30).filter(|n| limiter.attempt(&format!("user{n}"), "10.0.0.1", 100).is_ok()).count();
        assert_eq!(tried, 20);
        let tried = (0..250).filter(|n| limiter.attempt("anna", &format!("10.0.1.{n}"), 100).is_ok()).count();
        assert_eq!(tried, 200);
    }

    #[test]
    fn a_success_is_no_failure() {
        let mut limiter = Limiter::default();
        for _ in 0..100 {
            assert_eq!(limiter.attempt("anna", "10.0.0.1", 100), Ok(()));
            limiter.succeeded("anna", "10.0.0.1");
        }
    }
}
