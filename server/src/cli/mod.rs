//! What people type. Most verbs ask the running server; a few work on the data directory alone.

mod client;
mod directory;
mod doctor;
mod import;
mod people;
mod print;
mod releases;
mod verbs;
mod webhooks;
mod words;

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
    let client = match &words.server {
        Some(url) => Client::at(url, words.token_file.as_deref())?,
        None => Client::new(dir),
    };
    let Some(command) = &words.command else {
        println!("{}", directory::next_step(dir, &client));
        return Ok(());
    };
    match command {
        Command::Version => {
            println!("bootserver {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
        Command::Init | Command::Serve(_) | Command::Restore { .. } | Command::Doctor | Command::Backup { .. }
            if !client.is_local() =>
        {
            Err(Failure::Usage("this verb works on the data directory, where the server is: not with --server".into()))
        }
        Command::Init => directory::init(dir),
        Command::Serve(serve) => directory::serve(dir, serve),
        Command::Restore { file } => directory::restore(dir, file),
        Command::Doctor => doctor::doctor(dir, &client),
        Command::User(user) => people::user(user, dir, &client, words.json),
        Command::Token(token) => people::token(token, dir, &client, words.json),
        Command::Webhook(webhook) => webhooks::run(webhook, &client, words.json),
        command => verbs::execute(command, dir, &client, words.json),
    }
}
