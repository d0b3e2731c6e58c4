//! Signed exchanges: the keys shared with the servers, the headers of a request, and the check of a reply.
//!
//! Both directions are HMAC-SHA256 over a few lines and the body. A nonce that is never used twice binds a reply to its
//! request, so that no clock is needed and a recorded reply is worthless. Everything here is pure: the counter and the
//! random bytes come in as arguments. No message holds any part of a key.

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use crate::error::Error;
use crate::model::package::{from_hex, hex};

/// The shortest key, in bytes.
const KEY_MIN: usize = 16;

/// The number of digits that name a key.
const NAME_LENGTH: usize = 16;

/// The keys shared with the servers: the first one signs, and a reply signed with any of them is accepted.
pub struct Keys {
    keys: Vec<Hmac<Sha256>>,
    /// The name of the first key, by which a server with many keys finds it: the first digits of its SHA-256.
    name: String,
}

/// The signature of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// The headers to add to those of every request.
    pub headers: Vec<(String, String)>,
    /// The nonce that the reply must be signed with.
    pub nonce: Box<str>,
}

impl Keys {
    /// Reads a key file: one key to a line, the line's bytes without its newline; at most two.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn read(text: &[u8]) -> Result<Keys, Error> {
        let lines = text.strip_suffix(b"\n").unwrap_or(text).split(|byte| *byte == b'\n');
        let (mut keys, mut name) = (Vec::new(), String::new());
        for (index, line) in lines.enumerate() {
            if line.len() < KEY_MIN {
                return Err(format_error!(
                    "line {}: want a key of at least {KEY_MIN} bytes, got {}",
                    index + 1,
                    line.len()
                ));
            }
            if index == 2 {
                return Err("want one or two lines, each a key".into());
            }
            keys.extend(Hmac::new_from_slice(line));
            if index == 0 {
                name = hex(&Sha256::digest(line)[..NAME_LENGTH / 2]);
            }
        }
        Ok(Keys { keys, name })
    }

    /// Signs a POST of `body` to `url`.
    pub fn sign(&self, url: &str, sn: &str, nonce: Box<str>, body: &[u8]) -> Signed {
        let mac = code_of(&self.keys[0], &["POST", path(url), sn, &nonce], body);
        let signature = hex(&mac.finalize().into_bytes());
        let headers = [("Key", &*self.name), ("Sn", sn), ("Nonce", &nonce), ("Signature", &signature)];
        let headers = headers.map(|(name, value)| (format!("X-BootAgent-{name}"), value.to_string()));
        Signed { headers: headers.into(), nonce }
    }

    /// Checks that a reply is a server's answer to the request with this nonce. How long it takes does not depend on which
    /// bytes of the signature are wrong.
    ///
    /// # Errors
    /// Why the reply does not count.
    pub fn verify(&self, status: u16, nonce: &str, body: &[u8], signature: Option<&str>) -> Result<(), &'static str> {
        let signature = signature.ok_or("the reply is not signed")?;
        let signature = from_hex(signature).ok_or("the reply's signature is not 64 hexadecimal digits")?;
        let mut good = false;
        for key in &self.keys {
            let mac = code_of(key, &[&status.to_string(), nonce], body);
            good |= mac.verify_slice(&signature).is_ok();
        }
        if good {
            Ok(())
        } else {
            Err("the reply's signature is wrong: another key, another request's reply, or altered on the way")
        }
    }
}

/// The authentication code of the lines and the body behind them.
fn code_of(key: &Hmac<Sha256>, lines: &[&str], body: &[u8]) -> Hmac<Sha256> {
    let mut mac = key.clone();
    for line in lines {
        mac.update(line.as_bytes());
        mac.update(b"\n");
    }
    mac.update(body);
    mac
}

/// A nonce that was never used before, as long as either `counter` was not, or nobody can guess `random`.
pub fn nonce(sn: &str, counter: u64, random: &[u8; 32]) -> Box<str> {
    let hash = Sha256::new().chain_update(sn).chain_update(counter.to_be_bytes()).chain_update(random).finalize();
    hex(&hash[..16]).into()
}

/// The path of a URL as it stands on the request line.
fn path(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.find('/').map_or("/", |slash| &rest[slash..])
}

#[cfg(test)]
mod tests {
    use super::*;

    const SN: &str = "bfdcc18c-0b3c-4e0e-9d6a-3f1f6f0f7a11";
    const NONCE: &str = "0123456789abcdef0123456789abcdef";
    const KEY: &[u8] = b"an example key, do not use it";

    /// HMAC-SHA-256 is that of the standard.
    #[test]
    fn the_vectors_of_rfc_4231() {
        let long = [0xaa; 131];
        let counting: Vec<u8> = (1..=25).collect();
        for (key, data, want) in [
            (&[0x0b; 20][..], &b"Hi There"[..], "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
            (
                b"Jefe",
                b"what do ya want for nothing?",
                "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
            ),
            (&[0xaa; 20], &[0xdd; 50], "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"),
            (&counting, &[0xcd; 50], "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b"),
            (
                &long,
                b"Test Using Larger Than Block-Size Key - Hash Key First",
                "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
            ),
            (
                &long,
                b"This is a test using a larger than block-size key and a larger than block-size data. The key needs \
                  to be hashed before being used by the HMAC algorithm.",
                "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2",
            ),
        ] {
            let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
            mac.update(data);
            assert_eq!(hex(&mac.finalize().into_bytes()), want);
        }
    }

    /// The exchange that docs/protocol.md shows, to the byte; `openssl dgst -sha256 -hmac` says the same.
    #[test]
    fn the_exchange_in_the_documentation() {
        let keys = Keys::read(KEY).unwrap();
        let (request, reply) = (br#"[{"id":"j1","errcode":0,"message":"success"}]"#, br#"{"errcode":0}"#);
        let signed = keys.sign("http://control:8080/fleet/agent/job/result", SN, NONCE.into(), request);
        let answer = "0d8119c73613227701208e430067a11bd40e7e585ebf27d1d49a5d9f7c26efc8";
        let protocol = include_str!("../../docs/protocol.md");
        for (name, value) in &signed.headers {
            let line = format!("    {name}: {value}\n");
            assert!(protocol.contains(&line), "{line}");
        }
        for body in [&request[..], reply] {
            assert!(protocol.contains(std::str::from_utf8(body).unwrap()));
        }
        assert!(protocol.contains(&format!("    X-BootAgent-Signature: {answer}\n")));
        assert_eq!(keys.verify(200, NONCE, reply, Some(answer)), Ok(()));
    }

    #[test]
    fn a_reply_counts_only_as_it_was_sent() {
        let keys = Keys::read(KEY).unwrap();
        let sign = |key: &[u8], status: &str, nonce: &str, body: &[u8]| {
            let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
            mac.update([status.as_bytes(), b"\n", nonce.as_bytes(), b"\n", body].concat().as_slice());
            hex(&mac.finalize().into_bytes())
        };
        let good = sign(KEY, "200", NONCE, b"{}");
        assert_eq!(keys.verify(200, NONCE, b"{}", Some(&good)), Ok(()));
        assert_eq!(keys.verify(200, NONCE, b"{}", Some(&good.to_uppercase())), Ok(()));
        let other = "f".repeat(32);
        for (status, nonce, body, signature) in [
            (201, NONCE, &b"{}"[..], Some(good.as_str())),
            (200, &other, b"{}", Some(&good)),
            (200, NONCE, b"{ }", Some(&good)),
            (200, NONCE, b"", Some(&good)),
            (200, NONCE, b"{}", None),
            (200, NONCE, b"{}", Some("")),
            (200, NONCE, b"{}", Some(&good[..63])),
            (200, NONCE, b"{}", Some(&format!("{good}0"))),
            (200, NONCE, b"{}", Some(&"0".repeat(64))),
            (200, NONCE, b"{}", Some(&"\u{e9}".repeat(32))),
            (200, NONCE, b"{}", Some(&sign(b"another key, as long", "200", NONCE, b"{}"))),
        ] {
            assert!(keys.verify(status, nonce, body, signature).is_err(), "{status} {nonce} {body:?} {signature:?}");
        }
        let mut flipped = good.into_bytes();
        for index in 0..flipped.len() {
            let was = flipped[index];
            flipped[index] = if was == b'0' { b'1' } else { b'0' };
            assert!(keys.verify(200, NONCE, b"{}", std::str::from_utf8(&flipped).ok()).is_err(), "digit {index}");
            flipped[index] = was;
        }
    }

    #[test]
    fn keys_rotate() {
        let (old, new) = ("the old key, 16 bytes", "the new key, 16 bytes");
        let of = |text: &str| Keys::read(text.as_bytes()).unwrap();
        let both = of(&format!("{new}\n{old}\n"));
        let signed = |keys: &Keys| keys.sign("http://a/agent/status", SN, NONCE.into(), b"x").headers;
        assert_eq!(signed(&both), signed(&of(new)));
        assert_ne!(signed(&both), signed(&of(old)));
        for (key, want) in [(new, true), (old, true), ("a third key, 16 bytes", false)] {
            let mut mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).unwrap();
            mac.update(format!("200\n{NONCE}\n{{}}").as_bytes());
            let signature = hex(&mac.finalize().into_bytes());
            assert_eq!(both.verify(200, NONCE, b"{}", Some(&signature)).is_ok(), want, "{key}");
        }
    }

    #[test]
    fn key_files_are_judged() {
        for (text, want) in [
            (&b""[..], Some("line 1: want a key of at least 16 bytes, got 0")),
            (b"fifteen bytes..", Some("got 15")),
            (b"sixteen bytes...", None),
            (b"sixteen bytes...\n", None),
            (b"sixteen bytes...\n\n", Some("line 2: want a key of at least 16 bytes, got 0")),
            (b"sixteen bytes...\nsixteen bytes,,,", None),
            (b"sixteen bytes...\nsixteen bytes,,,\nsixteen bytes;;;\n", Some("one or two lines")),
            (&[0xff; 16], None),
        ] {
            match (Keys::read(text), want) {
                (Ok(_), None) => {}
                (Err(message), Some(want)) if message.contains(want) => {}
                (got, _) => panic!("{text:?}: got {:?}, want {want:?}", got.err()),
            }
        }
    }

    #[test]
    fn the_path_is_the_one_on_the_request_line() {
        for (url, want) in [("http://a/agent/status", "/agent/status"), ("https://a:1/x/agent/y", "/x/agent/y")] {
            assert_eq!(path(url), want);
        }
    }

    #[test]
    fn nonces_differ_by_host_counter_and_chance() {
        let zeros = [0; 32];
        let first = nonce(SN, 0, &zeros);
        assert!(first.len() == 32 && first.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')));
        for other in [nonce(SN, 1, &zeros), nonce("x", 0, &zeros), nonce(SN, 0, &[1; 32])] {
            assert_ne!(first, other);
        }
    }
}
