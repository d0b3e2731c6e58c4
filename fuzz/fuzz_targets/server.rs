//! What a server sends: replies, jobs, and signatures of replies.
#![no_main]

use bootagent::wire::{proto, sign::Keys};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = proto::result_reply(bytes);
    for job in proto::reply(bytes).map(|reply| reply.jobs).unwrap_or_default().into_iter().flatten() {
        assert_eq!(proto::job(&job.text), Ok(job));
    }
    let text = String::from_utf8_lossy(bytes);
    let _ = proto::job(&text);
    if let Ok(keys) = Keys::read(bytes) {
        assert!(keys.verify(200, "0", bytes, Some(&text)).is_err());
    }
});
