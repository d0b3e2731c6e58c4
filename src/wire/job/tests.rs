use super::*;

const HEX: &str = "4a34b8d7d3009bb9ef9475fbf33e7bbe4a1e8db003aefc578a241c2f51c2c2f2";

/// An install job with this URL.
fn install(url: &str) -> Result<Job, RejectedJob> {
    let url = json::write(&Value::String(url.to_string()));
    read_text(&format!(
        "{{\"id\":\"a\",\"action\":\"install\",\"name\":\"web\",\"checksum\":\"SHA256:{HEX}\",\"url\":{url}}}"
    ))
}

/// What is wrong with a restart job that has these fields too; empty when nothing is.
fn with(action: &str, fields: &str) -> String {
    let text = format!("{{\"id\":\"a\",\"action\":\"{action}\",\"name\":\"web\"{fields}}}");
    read_text(&text).map_or_else(|rejected| rejected.message.into(), |_| String::new())
}

#[test]
fn urls_that_lead_to_a_package() {
    for (url, want) in [
        ("ftp://server/a.rpm", Format::Rpm),
        ("ftp://u:p%40ss@server:21/%2Fpub/a.deb", Format::Deb),
        ("ftp://[::1]:2121/a.apk", Format::Apk),
        ("ftp://[fe80::1]/a.ipk", Format::Ipk),
        ("http://10.0.0.1:65535/x/y/a.tar", Format::Tar),
        ("http://server/a.tgz?x=/y.zip", Format::TarGz),
        ("http://server/a%2Etar.gz#top", Format::TarGz),
        ("http://user:pw@server/a.tar.xz", Format::TarXz),
        ("file:///srv/a%20b.deb", Format::Deb),
        ("http://server/ä.deb", Format::Deb),
    ] {
        match install(url).map(|job| job.action) {
            Ok(JobAction::Install(source)) => assert_eq!((source.format, &*source.url), (want, url)),
            other => panic!("{url}: {other:?}"),
        }
    }
}

#[test]
fn urls_that_do_not_say_what_is_wrong_and_no_secret() {
    for (url, want) in [
        ("", "ftp://, http:// or file://"),
        ("server/a.deb", "ftp://, http:// or file://"),
        ("sftp://u:hush@server/a.deb", "ftp://, http:// or file://"),
        ("http:///a.deb", "host name"),
        ("http://u:hush@/a.deb", "host name"),
        ("http://ser ver/a.deb", "spaces"),
        ("http://server/a.deb\n?", "spaces"),
        ("http://ser/ver\u{85}.deb", "spaces"),
        ("http://sér/a.deb", "host name"),
        ("http://[::1]/a.deb", "IPv6"),
        ("http://[::1]:80/a.deb", "IPv6"),
        ("ftp://[server]/a.deb", "IPv6"),
        ("ftp://[::1/a.deb", "host name"),
        ("ftp://[::1]x/a.deb", "port"),
        ("ftp://::1/a.deb", "host name"),
        ("http://server:0/a.deb", "port"),
        ("http://server:65536/a.deb", "port"),
        ("http://server:/a.deb", "port"),
        ("http://server:+80/a.deb", "port"),
        ("http://u:hush/x@server/a.deb", "port"),
        ("ftp://u:1/hush@server", "want a file name in"),
        ("file://server/a.deb", "file:///"),
        ("file://a.deb", "file:///"),
        ("ftp://server/a%0d%0aDELE%20b.deb", "control"),
        ("ftp://u%0a:hush@server/a.deb", "control"),
        ("http://server/a%00.deb", "control"),
        ("http://server/a%7f.deb", "control"),
        ("http://server/a%zz.deb", "hexadecimal"),
        ("http://server/a.deb%2", "hexadecimal"),
        ("http://server/a.zip?token=hush", "got \"a.zip\""),
        ("http://server/.deb", "got \".deb\""),
        ("http://server", "got \"\""),
        ("http://server/a.deb/", "got \"\""),
        ("ftp://server/a.deb?x", "got \"a.deb?x\""),
        ("ftp://server/x.deb%2Fevil", "got \"evil\""),
    ] {
        let message = install(url).map(|job| job.action).unwrap_err().message;
        assert!(message.starts_with("url: ") && message.contains(want), "{url}: {message}");
        assert!(!message.contains("hush"), "{url}: {message}");
    }
    let tls = install("https://server/a.deb");
    assert_eq!(tls.is_ok(), cfg!(feature = "tls"));
}

#[test]
fn every_known_field_is_checked() {
    let tar = format!(",\"url\":\"http://h/a.tar\",\"checksum\":\"SHA256:{HEX}\"");
    let deb = format!(",\"url\":\"http://h/a.deb\",\"checksum\":\"SHA256:{HEX}\"");
    let relative = ",\"definition\":{\"name\":\"web\",\"version\":\"1\",\"exec\":[\"bin/web\"]}";
    for (action, fields, want) in [
        ("restart", "", ""),
        ("restart", ",\"version\":\"1.0\"", ""),
        ("restart", ",\"version\":\"../1\"", "version: want 1 to 100"),
        ("restart", ",\"version\":1", "version: want 1 to 100"),
        ("restart", ",\"startsecs\":0", ""),
        ("restart", ",\"startsecs\":-1", "startsecs: want seconds"),
        ("restart", ",\"startsecs\":\"10\"", "startsecs: want seconds"),
        ("restart", ",\"window\":0.5", ""),
        ("restart", ",\"window\":-0.5", "window: want seconds"),
        ("restart", ",\"expires\":1", ""),
        ("restart", ",\"expires\":-1", "expires: want seconds"),
        ("restart", ",\"expires\":1e300", "expires: want seconds"),
        ("restart", ",\"signature\":[1]", "signature: want a string, got an array"),
        ("restart", ",\"envs\":[],\"limits\":[]", ""),
        ("restart", ",\"envs\":[1]", "envs: want an object of strings"),
        ("restart", ",\"limits\":[1]", "limits: want an object"),
        ("restart", ",\"envs\":{\"A=hush\":\"\"}", "envs: want names"),
        ("restart", ",\"limits\":\"none\"", "limits: want an object"),
        ("restart", ",\"limits\":{\"memory\":\"0\"}", "limits.memory: want a size"),
        ("restart", ",\"limits\":{\"memroy\":\"1M\"}", "limits.memroy: unknown key; did you mean \"memory\"?"),
        ("restart", ",\"definition\":7", "definition: want an object, got 7"),
        ("restart", ",\"definition\":{}", "definition.name: missing"),
        ("restart", relative, "definition.exec[0]: want an absolute path"),
        ("install", &[&tar, relative].concat(), ""),
        ("install", &[&deb, relative].concat(), "definition.exec[0]: want an absolute path"),
        (
            "restart",
            ",\"definition\":{\"name\":\"other\",\"version\":\"1\",\"exec\":[\"/x\"]}",
            "definition.name: want \"web\", as the job says",
        ),
        ("install", "", "url: missing; checksum: missing"),
        ("upgrade", ",\"url\":1,\"checksum\":2", "url: want a string, got 1; checksum: want"),
        ("start", ",\"url\":1,\"checksum\":2,\"svrlist\":3,\"step\":4", ""),
        ("upgrade", ",\"url\":\" HTTP://h/a.DEB\\n\",\"checksum\":\" sha256: HEX \"", ""),
        ("config", "", "nothing to change, want svrlist, step, envs, limits or definition"),
        ("config", ",\"step\":10", ""),
        ("config", ",\"step\":9", "step: want an integer of 10..86400, got 9"),
        ("config", ",\"step\":86401", "step: want"),
        ("config", ",\"step\":10.5", "step: want"),
        ("config", ",\"svrlist\":\"a:1,b\"", "svrlist: server \"b\": want host:port"),
        ("config", ",\"svrlist\":\"ftp://u:hush@b:1\"", "svrlist: a user in a URL"),
        ("config", ",\"svrlist\":[1]", "svrlist: want a string, got an array"),
        ("", "", "action: missing"),
    ] {
        let message = with(action, &fields.replace("HEX", HEX));
        assert!(message.starts_with(want) && message.is_empty() == want.is_empty(), "{action}{fields}: {message}");
        assert!(!message.contains("hush"), "{message}");
    }
    for (text, want) in [
        ("{\"id\":\"a\",\"action\":\"config\",\"envs\":{\"A\":\"b\"}}", "name: missing, envs are those of an agent"),
        ("{\"id\":\"a\",\"action\":\"config\",\"name\":5,\"step\":60}", "name: want 1 to 50"),
        ("{\"id\":7,\"action\":\"stop\",\"name\":\"a\"}", "id: want 1 to 127"),
        ("{\"id\":\"a\",\"action\":7,\"name\":\"a\"}", "action: want a string, got 7"),
        ("{", "1:2: "),
    ] {
        let rejected = read_text(text).unwrap_err();
        assert!(rejected.message.starts_with(want), "{text}: {rejected}");
        assert_eq!(rejected.code, Code::BadJob);
    }
}

#[test]
fn a_rejection_can_be_shown_anywhere() {
    let text = format!("{{\"id\":\"a\",\"action\":\"\\u001b[2J{}\",\"name\":\"web\"}}", "x".repeat(5000));
    let rejected = read_text(&text).unwrap_err();
    assert_eq!(rejected.code, Code::UnknownAction);
    for shown in [&rejected.action, &rejected.message] {
        assert!(shown.len() <= MESSAGE_MAX && !shown.contains(char::is_control), "{shown:?}");
    }
    assert!(rejected.action.len() <= 50);
}

#[test]
fn jobs_have_a_size() {
    let envs = |length| with("restart", &format!(",\"envs\":{{\"A\":\"{}\"}}", "a".repeat(length)));
    assert_eq!(envs(130_000), "");
    assert_eq!(envs(JOB_MAX), "want a job of at most 128 KiB, got 131130 bytes");
}
