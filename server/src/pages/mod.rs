//! Pages: pure functions from what was read to HTML. Templates are in `templates/`; whatever comes from a host or a person
//! is escaped there by itself, and what is HTML already has the type [`Html`].

pub mod agents;
pub mod fleet;
pub mod host;
pub mod hosts;
pub mod html;
pub mod jobs;
pub mod lists;
pub mod params;
pub mod people;
pub mod releases;
pub mod sent;
pub mod time;
pub mod words;

pub use html::{bar, escape, Badge, Html, Part, Tone};
use params::Params;

/// A number, or a reference to one: templates have now this and now that.
pub trait Number {
    /// The number.
    fn get(&self) -> i64;
}

impl Number for i64 {
    fn get(&self) -> i64 {
        *self
    }
}

impl<T: Number> Number for &T {
    fn get(&self) -> i64 {
        (**self).get()
    }
}

/// Who looks at a page.
#[derive(Clone, Debug, Default)]
pub struct Who {
    /// The name.
    pub name: String,
    /// `viewer`, `operator` or `admin`.
    pub role: String,
    /// Whether hosts, jobs and releases may be changed.
    pub may_operate: bool,
    /// Whether keys, users and webhooks may be changed.
    pub may_administer: bool,
}

/// What every page has around it.
#[derive(Clone, Debug, Default)]
pub struct Frame {
    /// The title.
    pub title: String,
    /// The address of the entry in the menu.
    pub active: &'static str,
    /// The path of this page.
    pub path: String,
    /// Its query.
    pub params: Params,
    /// The time of the answer.
    pub now: i64,
    /// Who looks; nobody at the login page.
    pub who: Option<Who>,
    /// What forms must bring back.
    pub csrf: String,
    /// Hosts that wait for a decision.
    pub pending: i64,
    /// Hosts that need somebody.
    pub trouble: i64,
    /// What was just done, or why not.
    pub notice: Option<Notice>,
    /// Addresses of the style sheet and of the script.
    pub assets: Assets,
}

/// Something that is told at the top of a page.
#[derive(Clone, Debug, PartialEq)]
pub struct Notice {
    /// Whether it was done.
    pub tone: Tone,
    /// The sentence.
    pub text: String,
}

/// Addresses of static files, each with a digest so that browsers may keep them.
#[derive(Clone, Debug, Default)]
pub struct Assets {
    /// The style sheet.
    pub style: String,
    /// htmx.
    pub script: String,
    /// The icon.
    pub icon: String,
}

/// An entry of the menu.
pub struct Entry {
    /// Where it leads.
    pub path: &'static str,
    /// What it says.
    pub word: &'static str,
    /// Whether a gap stands before it.
    pub gap: bool,
}

const MENU: [(&str, &str, bool); 13] = [
    ("/", "Fleet", false),
    ("/hosts", "Hosts", false),
    ("/pending", "Pending", false),
    ("/agents", "Agents", false),
    ("/jobs", "Jobs", true),
    ("/releases", "Releases", false),
    ("/events", "Events", true),
    ("/audit", "Audit", false),
    ("/keys", "Keys", true),
    ("/groups", "Groups", false),
    ("/users", "Users", false),
    ("/webhooks", "Webhooks", false),
    ("/server", "Server", false),
];

/// Entries that others do not see.
const FOR_ADMINS: [&str; 2] = ["/users", "/webhooks"];

impl Frame {
    /// The entries of the menu.
    pub fn menu(&self) -> Vec<Entry> {
        let shown = MENU.iter().filter(|(path, _, _)| self.may_administer() || !FOR_ADMINS.contains(path));
        shown.map(|(path, word, gap)| Entry { path, word, gap: *gap }).collect()
    }

    /// Whether whoever looks may change hosts, jobs and releases.
    pub fn may_operate(&self) -> bool {
        self.who.as_ref().is_some_and(|who| who.may_operate)
    }

    /// Whether whoever looks may change keys, groups, users and webhooks.
    pub fn may_administer(&self) -> bool {
        self.who.as_ref().is_some_and(|who| who.may_administer)
    }

    /// `3 min ago`, with the exact time on hover.
    pub fn ago(&self, at: impl Number) -> Html {
        let at = at.get();
        let (exact, machine, text) = (time::exact(at), time::iso(at), escape(&time::ago(at, self.now)));
        Html(format!("<time datetime=\"{machine}\" title=\"{exact}\">{text}</time>"))
    }

    /// `ago` for a time that may be missing.
    pub fn maybe_ago(&self, at: &Option<i64>) -> Html {
        at.as_ref().map_or_else(|| Html("<span class=\"faint\">never</span>".to_string()), |at| self.ago(at))
    }

    /// A span of seconds in one unit.
    pub fn span(&self, seconds: impl Number) -> String {
        time::span(seconds.get())
    }

    /// A count with commas.
    pub fn count(&self, number: impl Number) -> String {
        words::count(number.get())
    }

    /// `12 hosts`.
    pub fn many(&self, number: impl Number, word: &str) -> String {
        words::many(number.get(), word)
    }

    /// A bar of parts.
    pub fn bar(&self, parts: &[Part]) -> Html {
        bar(parts)
    }

    /// A badge of a word that is as it should be.
    pub fn good(&self, word: &str) -> Html {
        Badge::new(Tone::Ok, word).html()
    }

    /// A badge of a word that is of no concern.
    pub fn muted(&self, word: &str) -> Html {
        Badge::new(Tone::Mute, word).html()
    }

    /// A badge of a word that somebody should look at.
    pub fn warn(&self, word: &str) -> Html {
        Badge::new(Tone::Warn, word).html()
    }

    /// The field that proves that a form is of this session.
    pub fn token(&self) -> Html {
        Html(format!("<input type=\"hidden\" name=\"csrf\" value=\"{}\">", escape(&self.csrf)))
    }

    /// Whether parts of the page renew themselves.
    pub fn is_live(&self) -> bool {
        self.params.get("live") != "off"
    }

    /// The attributes of the part of a page that renews itself.
    pub fn live(&self) -> Html {
        if !self.is_live() {
            return Html("id=\"live\"".to_string());
        }
        let here = escape(&self.params.address(&self.path));
        Html(format!(
            "id=\"live\" hx-get=\"{here}\" hx-trigger=\"every 5s\" hx-select=\"#live\" hx-swap=\"outerHTML\" \
             hx-disinherit=\"*\""
        ))
    }

    /// The address of this page, renewing itself or not.
    pub fn toggle_live(&self) -> String {
        let word = if self.is_live() { "off" } else { "" };
        self.params.with("live", word).address(&self.path)
    }

    /// The exact time of the answer.
    pub fn clock(&self) -> String {
        time::exact(self.now)
    }

    /// The address of the list as CSV.
    pub fn csv(&self) -> String {
        self.params.with("page", "").with("live", "").address(&format!("{}.csv", self.path))
    }
}

/// Where a page of a list is.
#[derive(Clone, Debug, Default)]
pub struct Pager {
    /// The number of the first line, from 1; 0 where there is none.
    pub first: i64,
    /// The number of the last line.
    pub last: i64,
    /// How many lines there are.
    pub total: i64,
    /// Whether there may be more than `total`, as counting them all would take long.
    pub more: bool,
    /// The page before.
    pub before: Option<String>,
    /// The page after.
    pub after: Option<String>,
}

/// Lines on a page of a list.
pub const LINES: i64 = 50;
/// Counting ends here where a list can be very long.
pub const COUNT_MAX: i64 = 10_000;

impl Pager {
    /// The pager of a list, from its address.
    pub fn new(frame: &Frame, shown: usize, total: i64, more: bool) -> Pager {
        let first = frame.params.first();
        let shown = i64::try_from(shown).unwrap_or(0);
        let (number, last) = (first / LINES + 1, first + shown);
        let at = |number: i64| {
            let word = if number == 1 { String::new() } else { number.to_string() };
            frame.params.with("page", &word).address(&frame.path)
        };
        Pager {
            first: if shown == 0 { 0 } else { first + 1 },
            last,
            total,
            more,
            before: (number > 1).then(|| at(number - 1)),
            after: (last < total || (more && shown == LINES)).then(|| at(number + 1)),
        }
    }

    /// `1-50 of 1,234`.
    pub fn told(&self) -> String {
        let total = words::count(self.total);
        let plus = if self.more { "+" } else { "" };
        match (self.total, self.first) {
            (0, _) => "none".to_string(),
            (_, 0) => format!("nothing on this page; {total}{plus} in all"),
            (_, first) => format!("{}\u{2013}{} of {total}{plus}", words::count(first), words::count(self.last)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pager_leads_on_and_back() {
        let frame = Frame { path: "/hosts".into(), params: Params::parse("q=a%20b&page=2"), ..Frame::default() };
        let pager = Pager::new(&frame, 50, 120, false);
        assert_eq!(pager.told(), "51\u{2013}100 of 120");
        assert_eq!(pager.before.as_deref(), Some("/hosts?q=a%20b"));
        assert_eq!(pager.after.as_deref(), Some("/hosts?q=a%20b&page=3"));
    }
}
