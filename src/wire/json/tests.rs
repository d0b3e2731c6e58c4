use super::*;

#[test]
fn values_come_back_as_they_were_written() {
    for (text, want) in [
        (" null\r\n", "null"),
        ("[true,false , null]", "[true,false,null]"),
        ("{ }", "{}"),
        ("[ ]", "[]"),
        (r#"{"b":[{}],"a":{"":1}}"#, r#"{"a":{"":1},"b":[{}]}"#),
        (r#""\" \\ \/ \b\f\n\r\t \u00e4 \ud83d\ude00 \u0000 ä""#, "\"\\\" \\\\ / \\b\\f\\n\\r\\t ä 😀 \\u0000 ä\""),
        ("0", "0"),
        ("-0", "0"),
        ("18446744073709551615", "18446744073709551615"),
        ("-9223372036854775808", "-9223372036854775808"),
        ("0.25", "0.25"),
        ("-1.5e+1", "-15.0"),
        ("25E-2", "0.25"),
    ] {
        assert_eq!(parse(text, 3).map(|value| write(&value)), Ok(want.to_string()), "{text}");
    }
    assert_eq!(number(&parse("18446744073709551616", 1).unwrap()), Some(18446744073709551616.0));
}

#[test]
fn floats_are_those_that_were_meant() {
    for text in ["0.3", "1.5e-7", "123456.789", "1e22", "315360000.125", "9007199254740991e-22", "-2.5E+3", "0.10000"] {
        assert_eq!(number(&parse(text, 1).unwrap()), text.parse().ok(), "{text}");
    }
    for text in ["1.7976931348623e308", "2.3e-300", "0.1234567890123456789012345", "123456789012345678901234567890"] {
        let (got, want) = (number(&parse(text, 1).unwrap()).unwrap(), text.parse::<f64>().unwrap());
        assert!((got - want).abs() <= want * 1e-15, "{text}: {got}");
    }
    for (text, want) in [("1e-400", 0.0), ("0e999999999999", 0.0), ("1e-999999999999", 0.0), ("0.0e-5", 0.0)] {
        assert_eq!(number(&parse(text, 1).unwrap()), Some(want), "{text}");
    }
    let zeros = "0".repeat(400);
    assert_eq!(number(&parse(&format!("0.{zeros}1e401"), 1).unwrap()), Some(1.0));
    assert_eq!(number(&parse(&format!("1{zeros}e-400"), 1).unwrap()), Some(1.0));
}

#[test]
fn the_first_error_has_a_place() {
    for (text, want) in [
        ("", "1:1: expected a value, got the end"),
        (" \n ", "2:2: expected a value, got the end"),
        ("{", "1:2: expected a key in quotes or \"}\", got the end"),
        ("{a:1}", "1:2: expected a key in quotes or \"}\""),
        ("{\"a\":1,}", "1:8: expected a key in quotes"),
        ("{\"a\" 1}", "1:6: expected \":\""),
        ("{\"a\":1\n \"b\":2}", "2:2: expected \",\" or \"}\""),
        ("{\"a\":1]", "1:7: expected \",\" or \"}\""),
        ("{\"ä\":1, \"ä\":2}", "1:9: duplicate key \"ä\""),
        ("{\"a\":1, \"\\u0061\":2}", "1:9: duplicate key \"a\""),
        ("{\"\u{7f}\":1, \"\\u007f\":2}", "1:9: duplicate key \" \""),
        ("{\"\u{9b}\":1, \"\u{9b}\":2}", "1:9: duplicate key \" \""),
        ("[1 2]", "1:4: expected \",\" or \"]\""),
        ("[1,]", "1:4: expected a value"),
        ("[,1]", "1:2: expected a value"),
        ("[1", "1:3: expected \",\" or \"]\", got the end"),
        ("1 2", "1:3: expected the end"),
        ("{} // note", "1:4: expected the end"),
        ("'a'", "1:1: expected a value"),
        ("True", "1:1: expected a value"),
        ("nul", "1:1: expected a value"),
        ("NaN", "1:1: expected a value"),
        ("\u{feff}{", "1:2: expected a key in quotes or \"}\", got the end"),
        ("{}\u{feff}", "1:3: expected the end"),
        ("\u{a0}1", "1:1: expected a value"),
        ("[[[[1]]]]", "1:4: nested over 3 deep"),
        ("[[{\"a\":{}}]]", "1:8: nested over 3 deep"),
        ("\"ab", "1:4: expected a closing quote, got the end"),
        ("\"a\nb\"", "1:3: expected a closing quote; control characters are written as \\u00XX"),
        ("\"a\u{1}\"", "1:3: expected a closing quote; control characters are written as \\u00XX"),
        (r#""ä\x""#, r#"1:3: expected one of \" \\ \/ \b \f \n \r \t \uXXXX"#),
        (r#""\"#, r#"1:2: expected one of \" \\ \/ \b \f \n \r \t \uXXXX"#),
        (r#""\ä""#, r#"1:2: expected one of \" \\ \/ \b \f \n \r \t \uXXXX"#),
        (r#""\u12g4""#, "1:2: expected four hexadecimal digits after \\u"),
        (r#""\u+123""#, "1:2: expected four hexadecimal digits after \\u"),
        (r#""\u00ä4""#, "1:2: expected four hexadecimal digits after \\u"),
        (r#""\u12"#, "1:2: expected four hexadecimal digits after \\u"),
        (r#""\ud83d""#, "1:2: half of a surrogate pair"),
        (r#""\ude00""#, "1:2: half of a surrogate pair"),
        (r#""\ud83d\u0041""#, "1:2: half of a surrogate pair"),
        (r#""\ud83d\ud83d""#, "1:2: half of a surrogate pair"),
        (r#""\ud83d\u00""#, "1:8: expected four hexadecimal digits after \\u"),
        ("-", "1:2: expected a digit, got the end"),
        ("-a", "1:2: expected a digit"),
        ("+1", "1:1: expected a value"),
        (".5", "1:1: expected a value"),
        ("1.", "1:3: expected a digit, got the end"),
        ("1.e5", "1:3: expected a digit"),
        ("1e", "1:3: expected a digit, got the end"),
        ("1e+", "1:4: expected a digit, got the end"),
        ("[01]", "1:2: a number does not begin with 0"),
        ("-00", "1:1: a number does not begin with 0"),
        ("0x1", "1:2: expected the end"),
        ("[1e999]", "1:2: number out of range"),
        ("-1e9999999999", "1:1: number out of range"),
    ] {
        assert_eq!(parse(text, 3).map_err(|syntax| syntax.to_string()).err().as_deref(), Some(want), "{text}");
    }
}

#[test]
fn bytes_that_are_not_utf_8_have_a_place() {
    for (bytes, want) in [
        (&b"{\"a\":\n \"\xff\"}"[..], "2:3: not UTF-8"),
        (b"{} \xc3", "1:4: not UTF-8"),
        (b"\xff\xfe{\0}\0", "1:1: not UTF-8"),
        (b"{\"a\" 1, \"\xff\"}", "1:6: expected \":\""),
        (b"{\"\xed\xa0\x80\":1}", "1:3: not UTF-8"),
    ] {
        let got = parse_bytes(bytes, 3).map_err(|syntax| syntax.to_string());
        assert_eq!(got.err().as_deref(), Some(want));
    }
    assert!(parse_bytes("{\"ä\":1}".as_bytes(), 1).is_ok());
    assert!(parse_bytes("\u{feff}{\"ä\":1}".as_bytes(), 1).is_ok() && parse("\u{feff}{}", 1).is_ok());
}

#[test]
fn deep_nesting_costs_no_stack() {
    let deep = "[".repeat(1 << 20);
    assert_eq!(parse(&deep, MAX_DEPTH).map_err(|syntax| syntax.column).err(), Some(65));
    let just = ["[".repeat(64), "]".repeat(64)].concat();
    assert!(parse(&just, MAX_DEPTH).is_ok());
}

#[test]
fn numbers_are_what_they_mean() {
    for (text, as_integer, as_seconds) in [
        ("3", Some(3), Some(Duration::from_secs(3))),
        ("3.0", Some(3), Some(Duration::from_secs(3))),
        ("1e3", Some(1000), Some(Duration::from_secs(1000))),
        ("0.3", None, Some(Duration::from_millis(300))),
        ("-0", Some(0), Some(Duration::ZERO)),
        ("-0.0", Some(0), Some(Duration::ZERO)),
        ("-1", None, None),
        ("-0.1", None, None),
        ("315360000", Some(315_360_000), Some(Duration::from_secs(315_360_000))),
        ("315360000.5", None, None),
        ("1e300", None, None),
        ("18446744073709551615", Some(u64::MAX), None),
        ("\"3\"", None, None),
        ("true", None, None),
    ] {
        let value = parse(text, 1).unwrap();
        assert_eq!((integer(&value), seconds(&value)), (as_integer, as_seconds), "{text}");
    }
}

#[test]
fn fields_collect_every_fault() {
    let value = parse(
        r#"{"top":{"a":"x","b":-1,"c":null,"d":[1],"e":{},"f":"\u0000","g":0,"h\n":1,"i":"ok","j":true,"k":"thre","ii":1,
            "l":"two"}}"#,
        9,
    )
    .unwrap();
    let mut faults = Vec::new();
    let mut whole = Fields::of(&value, &mut faults).unwrap();
    let mut fields = whole.inside("top").unwrap();
    let words = [("one", 1), ("two", 2), ("three", 3)];
    assert_eq!((fields.word("k", &words), fields.word("l", &words), fields.word("m", &words)), (None, Some(2), None));
    assert_eq!(fields.integer("a", 1, 5), None);
    assert_eq!(fields.seconds("b"), None);
    assert!(fields.required("c").is_none() && fields.required("z").is_none());
    assert_eq!(fields.flag("d"), None);
    assert_eq!(fields.text("e"), None);
    assert_eq!(fields.text("f"), None);
    assert_eq!(fields.seconds_above_0("g"), None);
    assert_eq!((fields.text("i"), fields.flag("j"), fields.text("y")), (Some("ok"), Some(true), None));
    assert_eq!(fields.text("i"), Some("ok"), "what is read twice is named once");
    fields.refuse_unknown();
    assert_eq!(
        faults,
        [
            "top.k: want \"one\", \"two\" or \"three\", got \"thre\"",
            "top.a: want an integer of 1..5, got \"x\"",
            "top.b: want seconds, 0 or more and at most ten years, got -1",
            "top.c: missing",
            "top.z: missing",
            "top.d: want true or false, got an array",
            "top.e: want a string, got {}",
            "top.f: want a string without NUL, got \"\\u0000\"",
            "top.g: want seconds, above 0 and at most ten years, got 0",
            "top.h\\n: unknown key",
            "top.ii: unknown key; did you mean \"i\"?",
        ]
    );

    let mut faults = Vec::new();
    assert!(Fields::of(&Value::Bool(true), &mut faults).is_none());
    let value = parse(r#"{"a":{"b":7,"c":null}}"#, 9).unwrap();
    let mut fields = Fields::of(&value, &mut faults).unwrap();
    let mut inside = fields.inside("a").unwrap();
    assert!(inside.inside("b").is_none() && inside.inside("c").is_none());
    assert_eq!(faults, ["want an object, got true", "a.b: want an object, got 7"]);
    let long = show(&Value::String("ä".repeat(100)));
    assert_eq!(long, format!("\"{}...\"", "ä".repeat(59)));
}

#[test]
fn mangled_texts_never_panic() {
    let whole = br#"{"a\u00e4\ud83d\ude00":[1,-2.5e+3,true,null,{"b":"\\\"x"}]}"#;
    let mut seed = 1u32;
    let mut bad = 0;
    for round in 0..20_000 {
        let mut bytes = whole.to_vec();
        for _ in 0..=round % 3 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let at = (seed >> 8) as usize % bytes.len();
            bytes[at] = (seed >> 24) as u8;
        }
        bytes.truncate(whole.len() - round % whole.len());
        bad += usize::from(parse_bytes(&bytes, 4).is_err());
    }
    assert!(bad > 19_000, "only {bad} were wrong");
}
