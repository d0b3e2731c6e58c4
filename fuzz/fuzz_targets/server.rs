//! What a server sends.
#![no_main]
#![allow(dead_code)]

#[path = "../properties.rs"]
mod properties;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| properties::server(bytes));
