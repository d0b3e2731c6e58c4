//! What people type. Most verbs ask the running server; a few work on the data directory alone.

mod client;
mod directory;
mod import;
mod people;
mod print;
mod verbs;
mod words;

use crate::serve::run::Options;
use clap::Parser;
use client::{Client, Failure};
use std::process::ExitCode;
use words::{Command, Words};

/// Runs the command; its exit code: 0 done, 1 it did not work, 2 usage, 3 no server runs.
pub fn run() -> ExitCode {
    let words = match Words::try_parse() {
        Ok(words) => words,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    match execute(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let (code, text) = match failure {
                Failure::Failed(text) => (1, text),
                Failure::Usage(text) => (2, text),
                Failure::NotRunning(text) => (3, text),
            };
            eprintln!("bootserver: {text}");
            ExitCode::from(code)
        }
    }
}

fn execute(words: &Words) -> Result<(), Failure> {
    let dir = &words.dir;
    let client = Client::new(dir);
    let Some(command) = &words.command else {
        println!("{}", directory::next_step(dir, &client));
        return Ok(());
    };
    match command {
        Command::Version => {
            println!("bootserver {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
        Command::Init => directory::init(dir),
        Command::Serve { listen, pages, pages_url, public_url, allow_unsigned } => {
            let (listen, public_url, pages_url) = (listen.clone(), public_url.clone(), pages_url.clone());
            let (dir, pages, allow_unsigned) = (dir.clone(), *pages, *allow_unsigned);
            directory::serve(Options { dir, listen, pages, pages_url, public_url, allow_unsigned })
        }
        Command::Restore { file } => directory::restore(dir, file),
        Command::Doctor => directory::doctor(dir, &client),
        Command::User(user) => people::user(user, dir, &client, words.json),
        Command::Token(token) => people::token(token, dir, &client, words.json),
        command => verbs::execute(command, dir, &client, words.json),
    }
}
