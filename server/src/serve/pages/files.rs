//! The files that pages are made of. Their addresses carry a digest, so that browsers keep them until they change.

use crate::pages::Assets;
use crate::serve::door::{header, reply, Reply};
use hyper::HeaderMap;
use sha2::{Digest, Sha256};
use std::sync::OnceLock;

const FILES: [(&str, &str, &str); 3] = [
    ("/static/style.css", "text/css; charset=utf-8", include_str!("../../../static/style.css")),
    ("/static/htmx.js", "text/javascript; charset=utf-8", include_str!("../../../static/htmx-2.0.11.min.js")),
    ("/static/icon.svg", "image/svg+xml", include_str!("../../../static/icon.svg")),
];

fn tags() -> &'static [String] {
    static TAGS: OnceLock<Vec<String>> = OnceLock::new();
    TAGS.get_or_init(|| {
        let tag = |text: &str| crate::wire::sign::hex(&Sha256::digest(text)[..8]);
        FILES.iter().map(|(_, _, text)| tag(text)).collect()
    })
}

/// The addresses of the files.
pub fn assets() -> Assets {
    let address = |place: usize| format!("{}?{}", FILES[place].0, tags()[place]);
    Assets { style: address(0), script: address(1), icon: address(2) }
}

/// Sends a file, or says that the browser has it.
pub fn serve(path: &str, headers: &HeaderMap) -> Reply {
    let Some(place) = FILES.iter().position(|(known, _, _)| *known == path) else {
        return reply(404, "text/plain", "there is no such file\n", &[]);
    };
    let etag = format!("\"{}\"", tags()[place]);
    let known = header(headers, "if-none-match") == etag;
    let keep = [("etag", etag), ("cache-control", "public, max-age=31536000, immutable".to_string())];
    match known {
        true => reply(304, FILES[place].1, "", &keep),
        false => reply(200, FILES[place].1, FILES[place].2, &keep),
    }
}
