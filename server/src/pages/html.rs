//! Pieces of HTML: badges, bars, and text that is escaped.

use std::fmt;

/// A piece of HTML. Only functions of this folder make one, from what they have escaped.
#[derive(Clone, Debug, Default)]
pub struct Html(pub(super) String);

impl fmt::Display for Html {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl askama::filters::HtmlSafe for Html {}

/// Text as it may stand in HTML, in attributes too.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// How a state is to be taken; each has a colour and a sign of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// As it should be.
    Ok,
    /// On its way.
    Busy,
    /// Somebody should look.
    Warn,
    /// Somebody must act.
    Bad,
    /// Of no concern.
    Mute,
}

impl Tone {
    /// Its class in the style sheet.
    pub fn class(self) -> &'static str {
        match self {
            Tone::Ok => "ok",
            Tone::Busy => "busy",
            Tone::Warn => "warn",
            Tone::Bad => "bad",
            Tone::Mute => "mute",
        }
    }
}

/// A state in a word, with its tone.
#[derive(Clone, Debug, PartialEq)]
pub struct Badge {
    /// How it is to be taken.
    pub tone: Tone,
    /// The word.
    pub word: String,
}

impl Badge {
    /// A badge of a word.
    pub fn new(tone: Tone, word: impl Into<String>) -> Badge {
        Badge { tone, word: word.into() }
    }

    /// As HTML.
    pub fn html(&self) -> Html {
        Html(format!("<span class=\"badge {}\">{}</span>", self.tone.class(), escape(&self.word)))
    }
}

/// One part of a bar: a tone, a word and a count.
#[derive(Clone, Debug)]
pub struct Part {
    /// Its colour.
    pub tone: Tone,
    /// What is counted.
    pub word: String,
    /// How many.
    pub count: i64,
}

/// A bar of parts in proportion, as an image with its text.
pub fn bar(parts: &[Part]) -> Html {
    let total: i64 = parts.iter().map(|part| part.count).sum();
    let told: Vec<String> =
        parts.iter().filter(|part| part.count > 0).map(|part| format!("{} {}", part.count, part.word)).collect();
    let told = if told.is_empty() { "nothing yet".to_string() } else { told.join(", ") };
    let mut out = format!(
        "<svg class=\"bar\" role=\"img\" aria-label=\"{}\" viewBox=\"0 0 1000 10\" preserveAspectRatio=\"none\">",
        escape(&told)
    );
    let mut at = 0;
    for part in parts.iter().filter(|part| part.count > 0) {
        // Even one of a hundred thousand is seen.
        let width = (part.count * 1000 / total.max(1)).max(6).min(1000 - at);
        let (class, word) = (part.tone.class(), escape(&part.word));
        out.push_str(&format!(
            "<rect class=\"{class}\" x=\"{at}\" width=\"{width}\" height=\"10\"><title>{} {word}</title></rect>",
            part.count
        ));
        at += width;
    }
    out.push_str("</svg>");
    Html(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_from_others_is_escaped() {
        assert_eq!(escape("<a href='x'>&\""), "&lt;a href=&#39;x&#39;&gt;&amp;&quot;");
        assert!(Badge::new(Tone::Ok, "<b>").html().to_string().contains("&lt;b&gt;"));
    }

    #[test]
    fn a_bar_is_full_and_shows_the_few() {
        let part = |count| Part { tone: Tone::Ok, word: "x".to_string(), count };
        let bar = bar(&[part(99_999), part(1)]).to_string();
        assert!(bar.contains("aria-label=\"99999 x, 1 x\""), "{bar}");
        assert!(bar.contains("width=\"999\"") && bar.contains("x=\"999\" width=\"1\""), "{bar}");
    }
}
