//! The query of an address: read, changed and written again.

use crate::wire::url::{encode, pairs};

/// The pairs of a query, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Params(Vec<(String, String)>);

impl Params {
    /// Reads a query.
    pub fn parse(query: &str) -> Params {
        Params(pairs(query))
    }

    /// The fields of a form.
    pub fn of(pairs: Vec<(String, String)>) -> Params {
        Params(pairs)
    }

    /// The value of a name; empty without it.
    pub fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value.as_str())
    }

    /// Every value of a name.
    pub fn all(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(known, _)| known == name).map(|(_, value)| value.clone()).collect()
    }

    /// The pairs.
    pub fn pairs(&self) -> &[(String, String)] {
        &self.0
    }

    /// Adds a pair.
    pub fn push(&mut self, name: &str, value: &str) {
        self.0.push((name.to_string(), value.to_string()));
    }

    /// The same with another value of a name; an empty one removes it.
    pub fn with(&self, name: &str, value: &str) -> Params {
        let mut params = Params(self.0.iter().filter(|(known, _)| known != name).cloned().collect());
        if !value.is_empty() {
            params.push(name, value);
        }
        params
    }

    /// The address of a path with this query.
    pub fn address(&self, path: &str) -> String {
        if self.0.is_empty() {
            return path.to_string();
        }
        let pairs: Vec<String> =
            self.0.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect();
        format!("{path}?{}", pairs.join("&"))
    }

    /// The place of the first line of the page that is asked for, from 0.
    pub fn first(&self) -> i64 {
        let page: i64 = self.get("page").parse().unwrap_or(1);
        (page.clamp(1, 1_000_000) - 1) * super::LINES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_comes_back_as_it_was() {
        let params = Params::parse("q=os%3D%22debian%2012%22&host=a&host=b");
        assert_eq!(params.get("q"), "os=\"debian 12\"");
        assert_eq!(params.all("host"), ["a", "b"]);
        assert_eq!(params.address("/x"), "/x?q=os%3D%22debian%2012%22&host=a&host=b");
        assert_eq!(params.with("host", "").with("q", "").address("/x"), "/x");
    }

    #[test]
    fn no_page_is_before_the_first() {
        assert_eq!(Params::parse("page=-7").first(), 0);
        assert_eq!(Params::parse("page=3").first(), 100);
        assert_eq!(Params::parse("page=x").first(), 0);
    }
}
