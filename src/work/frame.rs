//! Requests and responses as bytes: a tag, then the fields in order; numbers as 8 bytes, texts and lists with their length
//! in front, all little endian.
//!
//! The first four bytes are the length of all that follows, so that a frame cut short by a kill is never taken for a whole
//! one. Decoding is total: whatever the bytes are, the result is a value or `None`. The daemon has one side of the pipes
//! and a helper of the same binary the other, so there are no versions.

use crate::kernel::Pid;
use crate::model::package::Format;
use crate::work::{Failure, FailureKind, HelperRequest, HelperResponse, Route};

/// What a frame holds.
trait Content: Sized {
    /// Appends it to a frame.
    fn put(&self, to: &mut Vec<u8>);
    /// Takes it from a frame; `None` where its tag is unknown.
    fn take(from: &mut Reader) -> Option<Self>;
}

/// A field of a content.
trait Field {
    fn put(&self, to: &mut Vec<u8>);
    /// Takes it from a frame, which is broken where it is not there; then the value has no meaning.
    fn take(from: &mut Reader) -> Self;
}

/// Makes an enum a content: the tag of its variant, then the fields of that.
macro_rules! content {
    ($type:ident: $($tag:literal $variant:ident $(($value:ident))? $({ $($field:ident),* })?)*) => {
        impl Content for $type {
            fn put(&self, to: &mut Vec<u8>) {
                match self {
                    $($type::$variant $(($value))? $({ $($field),* })? => {
                        to.push($tag);
                        $($value.put(to);)?
                        $($($field.put(to);)*)?
                    })*
                }
            }

            fn take(from: &mut Reader) -> Option<$type> {
                match from.bytes(1) {
                    $([$tag] => {
                        $(let $value = Field::take(from);)?
                        $($(let $field = Field::take(from);)*)?
                        Some($type::$variant $(($value))? $({ $($field),* })?)
                    })*
                    _ => None,
                }
            }
        }
    };
}

/// Makes a struct a field: its own fields.
macro_rules! field {
    ($type:ident: $($field:ident),*) => {
        impl Field for $type {
            fn put(&self, to: &mut Vec<u8>) {
                $(self.$field.put(to);)*
            }

            fn take(from: &mut Reader) -> $type {
                $(let $field = Field::take(from);)*
                $type { $($field),* }
            }
        }
    };
}

content! { HelperRequest:
    0 Exchange { url, headers, body, max_body, route }
    1 Fetch { url, max_bytes, rate, route, digest }
    2 Unpack { format, dir, max_bytes, max_entries }
    3 Verify { keys, signature, name, version }
    4 Inspect { pids, mark }
    5 Rotate { older, size, freezer }
}

content! { HelperResponse:
    0 Exchanged { status, retry_after, signature, body }
    1 Fetched { digest, size, counted }
    2 Unpacked { entries, bytes, top }
    3 Failed(failure)
    4 Verified { digest }
    6 Rotated
    7 Inspected(answers)
}

/// What comes before a response. No response has its tag.
enum Early {
    Announced(u64),
}

content! { Early: 5 Announced(number) }

field! { Route: proxy, turn, first, failed, own_client }

field! { Failure: kind, reason, progressed, retry_after }

impl Field for FailureKind {
    fn put(&self, to: &mut Vec<u8>) {
        (*self as u64).put(to);
    }

    fn take(from: &mut Reader) -> FailureKind {
        use FailureKind::*;
        from.one_of(&[Temporary, Final, NoSpace, TooBig, Hostile, Unreadable])
    }
}

impl Field for Format {
    fn put(&self, to: &mut Vec<u8>) {
        (*self as u64).put(to);
    }

    fn take(from: &mut Reader) -> Format {
        use Format::*;
        from.one_of(&[Rpm, Deb, Apk, Ipk, Tar, TarGz, TarXz, TarZst])
    }
}

impl Field for u64 {
    fn put(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(&self.to_le_bytes());
    }

    fn take(from: &mut Reader) -> u64 {
        from.bytes(8).try_into().map_or(0, u64::from_le_bytes)
    }
}

impl Field for u16 {
    fn put(&self, to: &mut Vec<u8>) {
        u64::from(*self).put(to);
    }

    fn take(from: &mut Reader) -> u16 {
        u64::take(from) as u16
    }
}

impl Field for bool {
    fn put(&self, to: &mut Vec<u8>) {
        u64::from(*self).put(to);
    }

    fn take(from: &mut Reader) -> bool {
        u64::take(from) == 1
    }
}

impl Field for [u8; 32] {
    fn put(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(self);
    }

    fn take(from: &mut Reader) -> [u8; 32] {
        from.bytes(32).try_into().unwrap_or([0; 32])
    }
}

impl Field for Vec<u8> {
    fn put(&self, to: &mut Vec<u8>) {
        put_text(self, to);
    }

    fn take(from: &mut Reader) -> Vec<u8> {
        from.text().to_vec()
    }
}

impl Field for String {
    fn put(&self, to: &mut Vec<u8>) {
        put_text(self.as_bytes(), to);
    }

    fn take(from: &mut Reader) -> String {
        let text = std::str::from_utf8(from.text());
        from.is_broken |= text.is_err();
        text.unwrap_or_default().to_string()
    }
}

impl Field for Vec<Pid> {
    fn put(&self, to: &mut Vec<u8>) {
        self.iter().map(|pid| pid.raw() as u64).collect::<Vec<u64>>().put(to);
    }

    fn take(from: &mut Reader) -> Vec<Pid> {
        let numbers = Vec::<u64>::take(from);
        let pids: Vec<Pid> = numbers.iter().filter_map(|number| Pid::new(i32::try_from(*number).ok()?)).collect();
        from.is_broken |= pids.len() < numbers.len();
        pids
    }
}

impl<T: Field> Field for Vec<T> {
    fn put(&self, to: &mut Vec<u8>) {
        (self.len() as u64).put(to);
        self.iter().for_each(|field| field.put(to));
    }

    fn take(from: &mut Reader) -> Vec<T> {
        let mut list = Vec::new();
        let length = u64::take(from);
        while !from.is_broken && (list.len() as u64) < length {
            list.push(T::take(from));
        }
        list
    }
}

impl<T: Field> Field for Option<T> {
    fn put(&self, to: &mut Vec<u8>) {
        self.is_some().put(to);
        self.iter().for_each(|field| field.put(to));
    }

    fn take(from: &mut Reader) -> Option<T> {
        bool::take(from).then(|| T::take(from))
    }
}

impl<T: Field, U: Field> Field for (T, U) {
    fn put(&self, to: &mut Vec<u8>) {
        self.0.put(to);
        self.1.put(to);
    }

    fn take(from: &mut Reader) -> (T, U) {
        (T::take(from), U::take(from))
    }
}

fn put_text(text: &[u8], to: &mut Vec<u8>) {
    (text.len() as u64).put(to);
    to.extend_from_slice(text);
}

/// The rest of a frame that is being read.
struct Reader<'a> {
    rest: &'a [u8],
    /// Something that was asked for was not there.
    is_broken: bool,
}

impl<'a> Reader<'a> {
    fn bytes(&mut self, count: u64) -> &'a [u8] {
        let split = usize::try_from(count).ok().and_then(|count| self.rest.split_at_checked(count));
        self.is_broken |= split.is_none();
        let (head, rest) = split.unwrap_or_default();
        self.rest = rest;
        head
    }

    fn text(&mut self) -> &'a [u8] {
        let length = u64::take(self);
        self.bytes(length)
    }

    /// The value with the next number.
    fn one_of<T: Copy>(&mut self, values: &[T]) -> T {
        let number = u64::take(self) as usize;
        self.is_broken |= number >= values.len();
        values[number.min(values.len() - 1)]
    }
}

fn encode<T: Content>(content: &T) -> Vec<u8> {
    let mut frame = vec![0; 4];
    content.put(&mut frame);
    let length = (frame.len() - 4) as u32;
    frame[..4].copy_from_slice(&length.to_le_bytes());
    frame
}

/// The content of the frame that is exactly these bytes.
fn decode<T: Content>(frame: &[u8]) -> Option<T> {
    let (length, rest) = frame.split_first_chunk()?;
    let mut reader = Reader { rest, is_broken: u32::from_le_bytes(*length) as usize != rest.len() };
    T::take(&mut reader).filter(|_| !reader.is_broken && reader.rest.is_empty())
}

/// A request as one frame.
pub fn encode_request(request: &HelperRequest) -> Vec<u8> {
    encode(request)
}

/// The request that is exactly these bytes.
pub fn decode_request(bytes: &[u8]) -> Option<HelperRequest> {
    decode(bytes)
}

/// A response as one frame.
pub fn encode_response(response: &HelperResponse) -> Vec<u8> {
    encode(response)
}

/// The response that is exactly these bytes.
pub fn decode_response(bytes: &[u8]) -> Option<HelperResponse> {
    decode(bytes)
}

/// A number that a helper announces before its response: how many bytes a download will have, or the address that an exchange
/// has reached.
pub fn encode_announced(number: u64) -> Vec<u8> {
    encode(&Early::Announced(number))
}

/// Removes a frame of `encode_announced` from the front of the bytes received so far.
pub fn take_announced(bytes: &mut Vec<u8>) -> Option<u64> {
    let length = encode_announced(0).len();
    let Early::Announced(number) = decode(bytes.get(..length)?)?;
    bytes.drain(..length);
    Some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests() -> Vec<HelperRequest> {
        vec![
            HelperRequest::Exchange {
                url: "http://a/agent/status".into(),
                headers: vec![("X-A".into(), "1".into()), ("X-B".into(), String::new())],
                body: b"{}".to_vec(),
                max_body: 1 << 20,
                route: Route { first: Some(7), ..Route::default() },
            },
            HelperRequest::Fetch {
                url: "ftp://a/b.rpm".into(),
                max_bytes: u64::MAX,
                rate: None,
                route: Route::default(),
                digest: [0; 32],
            },
            HelperRequest::Fetch {
                url: String::new(),
                max_bytes: 0,
                rate: Some(0),
                route: Route {
                    proxy: Some("p:3128".into()),
                    turn: 7,
                    failed: vec![8, 9],
                    own_client: true,
                    ..Route::default()
                },
                digest: [9; 32],
            },
            HelperRequest::Verify {
                keys: vec!["RWa".into(), "RWb".into()],
                signature: "s\n".into(),
                name: "web".into(),
                version: "1".into(),
            },
            HelperRequest::Unpack { format: Format::TarXz, dir: "/x".into(), max_bytes: 1, max_entries: 2 },
            HelperRequest::Rotate { older: "/x.log.1".into(), size: 1, freezer: String::new() },
            HelperRequest::Inspect { pids: vec![], mark: None },
            HelperRequest::Inspect { pids: vec![Pid::new(7).unwrap()], mark: Some("/s".into()) },
        ]
    }

    fn responses() -> Vec<HelperResponse> {
        vec![
            HelperResponse::Exchanged {
                status: 429,
                retry_after: Some(7),
                signature: Some("ab".into()),
                body: vec![0, 255],
            },
            HelperResponse::Exchanged { status: 200, retry_after: None, signature: None, body: Vec::new() },
            HelperResponse::Fetched { digest: [7; 32], size: 9, counted: true },
            HelperResponse::Verified { digest: [8; 32] },
            HelperResponse::Unpacked { entries: 1, bytes: 2, top: "a-1".into() },
            HelperResponse::Failed(Failure {
                kind: FailureKind::Hostile,
                reason: "x".into(),
                progressed: 3,
                retry_after: Some(4),
            }),
            HelperResponse::Inspected(vec!["-".into(), String::new()]),
            HelperResponse::Rotated,
        ]
    }

    #[test]
    fn frames_come_back_as_they_went() {
        for request in requests() {
            assert_eq!(decode_request(&encode_request(&request)), Some(request));
        }
        for response in responses() {
            assert_eq!(decode_response(&encode_response(&response)), Some(response));
        }
    }

    #[test]
    fn each_kind_and_each_format_has_a_number_of_its_own() {
        use Format::*;
        for kind in [
            FailureKind::Temporary,
            FailureKind::Final,
            FailureKind::NoSpace,
            FailureKind::TooBig,
            FailureKind::Hostile,
            FailureKind::Unreadable,
        ] {
            let response = HelperResponse::Failed(*Failure::new(kind, "x"));
            assert_eq!(decode_response(&encode_response(&response)), Some(response));
        }
        for format in [Rpm, Deb, Apk, Ipk, Tar, TarGz, TarXz, TarZst] {
            let request = HelperRequest::Unpack { format, dir: "/x".into(), max_bytes: 1, max_entries: 2 };
            assert_eq!(decode_request(&encode_request(&request)), Some(request));
        }
    }

    #[test]
    fn a_frame_cut_short_or_with_more_behind_it_is_none() {
        for mut bytes in responses().iter().map(encode_response).chain(requests().iter().map(encode_request)) {
            for end in 0..bytes.len() {
                assert_eq!(decode_response(&bytes[..end]), None);
                assert_eq!(decode_request(&bytes[..end]), None);
            }
            bytes.push(0);
            assert_eq!(decode_response(&bytes), None);
            assert_eq!(decode_request(&bytes), None);
        }
    }

    #[test]
    fn totals_come_off_the_front_and_nothing_else_does() {
        let mut bytes = [
            encode_announced(7),
            encode_announced(u64::MAX),
            encode_response(&HelperResponse::Verified { digest: [1; 32] }),
        ]
        .concat();
        assert_eq!((take_announced(&mut bytes), take_announced(&mut bytes)), (Some(7), Some(u64::MAX)));
        assert_eq!(take_announced(&mut bytes), None);
        assert_eq!(decode_response(&bytes), Some(HelperResponse::Verified { digest: [1; 32] }));
        for response in responses() {
            assert_eq!(take_announced(&mut encode_response(&response)), None);
        }
        for end in 0..encode_announced(7).len() {
            assert_eq!(take_announced(&mut encode_announced(7)[..end].to_vec()), None);
        }
    }

    #[test]
    fn mangled_frames_do_no_harm() {
        let mut seed = 1_u32;
        for bytes in responses().iter().map(encode_response).chain(requests().iter().map(encode_request)) {
            for _ in 0..2000 {
                let mut mangled = bytes.clone();
                for _ in 0..3 {
                    seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    let place = 4 + (seed >> 8) as usize % (mangled.len() - 4);
                    mangled[place] = seed as u8;
                }
                decode_request(&mangled);
                decode_response(&mangled);
            }
        }
    }
}
