//! The words of the command line.

use crate::model::address::Cidr;
use clap::{Parser, Subcommand};
use std::net::SocketAddr;
use std::path::PathBuf;

/// The control server of a fleet of BootAgent hosts.
#[derive(Parser)]
#[command(name = "bootserver", disable_help_subcommand = true)]
pub struct Words {
    /// The data directory.
    #[arg(short, long, default_value = "/var/lib/bootserver", global = true, value_name = "DIR")]
    pub dir: PathBuf,
    /// Ask a server somewhere else, such as https://boot.example.com.
    #[arg(long, global = true, value_name = "URL")]
    pub server: Option<String>,
    /// The token to show it, in the first line of a file.
    #[arg(long, global = true, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Print JSON.
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(Subcommand)]
pub enum Command {
    /// Make the data directory, and say what comes next.
    Init,
    /// Run the server.
    Serve(Serve),
    /// Look at everything that can be wrong.
    Doctor,
    /// Write a copy of the database.
    Backup { file: PathBuf },
    /// Put a copy back; the server must be stopped.
    Restore { file: PathBuf },
    /// Give the job files of a directory of the smallest server: HOST/*.json and all/*.json.
    Import { directory: PathBuf },
    /// Print the version.
    Version,
    /// Keys that hosts sign with.
    #[command(subcommand)]
    Key(Key),
    /// Groups of hosts.
    #[command(subcommand)]
    Group(Group),
    /// Hosts.
    #[command(subcommand)]
    Host(Host),
    /// Versions of agents that can be given to hosts.
    #[command(subcommand)]
    Release(Release),
    /// Jobs.
    #[command(subcommand)]
    Job(Job),
    /// People who can log in.
    #[command(subcommand)]
    User(User),
    /// Tokens that programs show instead of a password.
    #[command(subcommand)]
    Token(Token),
    /// Who is told of events, by HTTP.
    #[command(subcommand)]
    Webhook(Webhook),
    /// What happened.
    Events {
        /// Go on as more happens.
        #[arg(short, long)]
        follow: bool,
        /// How many.
        #[arg(short = 'n', long, default_value_t = 50)]
        lines: i64,
    },
    /// Who did what.
    Audit {
        /// How many.
        #[arg(short = 'n', long, default_value_t = 50)]
        lines: i64,
    },
}

#[derive(Subcommand)]
pub enum Key {
    /// Make one.
    New {
        #[arg(long)]
        group: String,
        /// Accept its hosts at once.
        #[arg(long)]
        auto_accept: bool,
        /// For one host of this name only.
        #[arg(long, value_name = "NAME")]
        host: Option<String>,
        /// Write it to a file, as the agent's key_file wants it.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// List them.
    List,
    /// No longer take what it signs.
    Revoke { id: String },
}

#[derive(clap::Args)]
pub struct Serve {
    /// Where hosts come; may be given several times.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:8080")]
    pub listen: Vec<SocketAddr>,
    /// Where people and programs come: pages, API and metrics. Beyond loopback only with TLS or a proxy.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:8081")]
    pub pages: SocketAddr,
    /// The URL of the pages as people type it, such as https://boot.example.com.
    #[arg(long, value_name = "URL")]
    pub pages_url: Option<String>,
    /// The certificate of the pages, in PEM; it is read again when it is renewed.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// Its private key, in PEM.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Addresses of the proxy in front of the pages, which says who the client is; may be given several times.
    #[arg(long, value_name = "CIDR")]
    pub behind_proxy: Vec<Cidr>,
    /// Where hosts find packages; without it, the address at which they came.
    #[arg(long, value_name = "URL")]
    pub public_url: Option<String>,
    /// Take hosts that sign nothing. Whoever reaches the port can then speak for them.
    #[arg(long)]
    pub allow_unsigned: bool,
}

#[derive(Subcommand)]
pub enum User {
    /// Add one. Without a file, a password is made and printed once.
    Add {
        name: String,
        /// viewer, operator or admin.
        #[arg(long)]
        role: String,
        /// The password, in the first line of a file; - is standard input.
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
    },
    /// Change a password, and end the user's sessions. Without a file, one is made and printed once.
    Passwd {
        name: String,
        /// The password, in the first line of a file; - is standard input.
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
    },
    /// Change what a user may do: viewer, operator or admin.
    Role { name: String, role: String },
    /// Let a user in no longer, and end their sessions.
    Disable { name: String },
    /// Let a user in again.
    Enable { name: String },
    /// List them.
    List,
}

#[derive(Subcommand)]
pub enum Token {
    /// Make one.
    New {
        name: String,
        /// viewer, operator or admin.
        #[arg(long)]
        role: String,
        /// When it ends.
        #[arg(long, default_value_t = 90)]
        days: i64,
        /// Write it to a file, as --token-file wants it.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// List them.
    List,
    /// No longer take it.
    Revoke { name: String },
}

#[derive(Subcommand)]
pub enum Webhook {
    /// Add one; prints once what its messages are signed with.
    Add {
        name: String,
        url: String,
        /// Of what it is told: host-lost, host-conflict, host-back, security, job. Without any, the first two.
        #[arg(long = "event", value_name = "EVENT")]
        events: Vec<String>,
    },
    /// List them, and what became of the last message.
    List,
    /// Tell it no more.
    Remove { name: String },
    /// Send a message to see whether it arrives.
    Test { name: String },
}

#[derive(Subcommand)]
pub enum Group {
    /// Make one.
    New { name: String },
    /// Change zone, window, lost, retire, replace (auto or ask), allow_unidentified.
    Set {
        name: String,
        #[arg(required = true, value_name = "KEY=VALUE")]
        settings: Vec<String>,
    },
    /// List them.
    List,
}

#[derive(Subcommand)]
pub enum Host {
    /// List the hosts of a filter.
    List { filter: Vec<String> },
    /// Show all that is known of one.
    Show { host: String },
    /// Let them have jobs.
    Accept {
        #[arg(required = true)]
        hosts: Vec<String>,
    },
    /// Refuse them.
    Reject {
        #[arg(required = true)]
        hosts: Vec<String>,
    },
    /// They are gone for good.
    Retire {
        #[arg(required = true)]
        hosts: Vec<String>,
    },
    /// Keep their versions as they are: no install, upgrade or uninstall.
    Pin {
        #[arg(required = true)]
        hosts: Vec<String>,
        /// Why, for the others.
        #[arg(long, value_name = "TEXT", default_value = "")]
        reason: String,
    },
    /// Let their versions change again.
    Unpin {
        #[arg(required = true)]
        hosts: Vec<String>,
    },
    /// Put NEW in the place of OLD.
    Replace { old: String, new: String },
    /// Set labels; an empty value removes one.
    Label {
        host: String,
        #[arg(required = true, value_name = "KEY=VALUE")]
        labels: Vec<String>,
    },
    /// Move it to another group.
    Group { host: String, group: String },
}

#[derive(Subcommand)]
pub enum Release {
    /// Add a package to a release, and the release where it is missing.
    Add {
        agent: String,
        version: String,
        /// The package.
        #[arg(long, required_unless_present = "url", conflicts_with = "url")]
        file: Option<PathBuf>,
        /// Where the package is.
        #[arg(long, requires = "checksum")]
        url: Option<String>,
        /// SHA256:... of what is there.
        #[arg(long)]
        checksum: Option<String>,
        /// For hosts of this architecture only.
        #[arg(long)]
        arch: Option<String>,
        /// For hosts of this system only: ID, or "ID VERSION_ID".
        #[arg(long)]
        os: Option<String>,
        /// A .minisig file.
        #[arg(long)]
        sig: Option<PathBuf>,
        /// A JSON file: the definition that hosts run it by.
        #[arg(long)]
        definition: Option<PathBuf>,
        /// Seconds that it must live to count as started.
        #[arg(long)]
        startsecs: Option<i64>,
    },
    /// List them.
    List,
    /// No new job takes it.
    Withdraw { agent: String, version: String },
}

#[derive(Subcommand)]
pub enum Job {
    /// Install a release.
    Install(Given),
    /// Upgrade to a release.
    Upgrade(Given),
    /// Remove an agent.
    Uninstall(Given),
    /// Start an agent.
    Start(Given),
    /// Stop an agent.
    Stop(Given),
    /// Restart an agent.
    Restart(Given),
    /// Have an agent read its configuration.
    Reload(Given),
    /// Change envs and limits of an agent, or a host's own servers and step.
    Config(Given),
    /// List executions: one job on one host each.
    List {
        filter: Vec<String>,
        #[arg(short = 'n', long, default_value_t = 1000)]
        lines: i64,
    },
    /// Show the executions of a job.
    Show { id: String },
    /// Withdraw what has not ended.
    Cancel { id: String },
}

#[derive(clap::Args)]
pub struct Given {
    pub agent: Option<String>,
    /// Which hosts, such as "group=web os=debian".
    #[arg(long, value_name = "FILTER")]
    pub select: String,
    /// The release; the newest without it.
    #[arg(long)]
    pub version: Option<String>,
    /// Remove configuration and data too.
    #[arg(long)]
    pub purge: bool,
    /// Set a variable; @FILE reads its value.
    #[arg(long, value_name = "K=V|K=@FILE")]
    pub env: Vec<String>,
    /// Set a limit, such as memory=20M.
    #[arg(long, value_name = "K=V")]
    pub limit: Vec<String>,
    /// Servers of the host; empty clears them.
    #[arg(long)]
    pub svrlist: Option<String>,
    /// Seconds between the host's reports.
    #[arg(long)]
    pub step: Option<i64>,
    /// Do not wait for the maintenance windows of groups.
    #[arg(long)]
    pub now: bool,
    /// Spread the beginning over so many seconds.
    #[arg(long)]
    pub window: Option<i64>,
    /// Not to be begun after so many seconds.
    #[arg(long)]
    pub expires: Option<i64>,
    /// Seconds that it must live to count as started.
    #[arg(long)]
    pub startsecs: Option<i64>,
}
