#![allow(clippy::unwrap_used)]
use super::*;
use serde_json::Value;

/// The markup of a page: every tag with its attributes, without the text between.
fn tags(html: &str) -> Vec<String> {
    let mut tags = Vec::new();
    let mut rest = html;
    while let Some(start) = rest.find('<') {
        let end = rest[start..].find('>').unwrap() + start;
        tags.push(rest[start..=end].to_owned());
        rest = &rest[end + 1..];
    }
    tags
}

fn unescape(text: &str) -> String {
    text.replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"")
        .replace("&#39;", "'")
        .replace("&amp;", "&")
}

proptest::proptest! {
    /// Guards: whatever a guest writes, the page's markup is the same as with harmless text.
    #[test]
    fn hostile_text_never_becomes_markup(text in "(?s).{0,80}") {
        let text = format!("x{text}");
        let hostile = page(&sample::failed(&text));
        proptest::prop_assert_eq!(tags(&hostile), tags(&page(&sample::failed("x"))));
        proptest::prop_assert!(!hostile.chars().any(|c| c.is_control() && c != '\n' && c != '\t'));
    }

    /// Guards: readable text is shown as it is, not mangled.
    #[test]
    fn ordinary_text_reads_back(text in "[ -~äöü]{1,60}") {
        let shown = page(&sample::failed(&text));
        let wanted = format!("<span class=\"found\">{text}</span>");
        proptest::prop_assert!(unescape(&shown).contains(&wanted));
    }
}

#[test]
fn well_known_attacks_stay_text() {
    for attack in [
        "<script>alert(1)</script>",
        "</pre><img src=x onerror=alert(1)>",
        "\"><svg onload=alert(1)>",
        "' onmouseover='alert(1)",
        "<!--",
        "]]>",
        "</title></style><script>",
        "\u{202e}gnp.exe",
        "\0\u{1b}[2J",
    ] {
        let html = page(&sample::failed(attack));
        assert_eq!(tags(&html), tags(&page(&sample::failed("x"))), "{attack}");
        assert!(!html.contains('\u{202e}') && !html.contains('\0') && !html.contains('\u{1b}'));
    }
}

#[test]
fn the_page_needs_nothing_else_and_is_accessible() {
    let html = page(&sample::failed("x"));
    for outside in [
        "http://", "https://", "src=", "href=", "url(", "@import", "<script",
    ] {
        assert!(!html.contains(outside), "the page has {outside}");
    }
    assert!(html.contains("<html lang=\"en\">"));
    assert_eq!(html.matches("<h1>").count(), 1);
    let tags = tags(&html);
    assert!(
        tags.iter()
            .filter(|t| t.starts_with("<th "))
            .all(|t| t.contains("scope="))
    );
    assert!(html.contains("Content-Security-Policy"));
    for element in [
        "section", "table", "dl", "pre", "header", "main", "div", "details", "tr", "td", "th",
    ] {
        let opened = tags
            .iter()
            .filter(|t| **t == format!("<{element}>") || t.starts_with(&format!("<{element} ")))
            .count();
        let closed = tags
            .iter()
            .filter(|t| **t == format!("</{element}>"))
            .count();
        assert_eq!(opened, closed, "{element}");
    }
}

#[test]
fn the_page_says_what_matters() {
    let html = page(&sample::failed("the guest's text"));
    for told in [
        "Failed",
        "web1",
        "2 h 10 min",
        "objective 1 d: met",
        "objective 15 min: missed",
        "not reached",
        "What to do:",
        "of 5 min",
        "17 tries",
    ] {
        assert!(html.contains(told), "the page does not say {told}");
    }
}

/// Guards the promise to programs: these names stay.
#[test]
fn the_json_keeps_its_field_names() {
    let json: Value = serde_json::to_value(sample::failed("x")).unwrap();
    let keys = |value: &Value| {
        let mut keys: Vec<_> = value.as_object().unwrap().keys().cloned().collect();
        keys.sort();
        keys.join(" ")
    };
    assert_eq!(
        keys(&json),
        "description duration_ms failed_check finished host id name objectives plan_file reason \
         remedy rpo_ms rto_ms schema schema_version servers started teardown verdict versions"
    );
    assert_eq!(
        keys(&json["servers"][0]),
        "addresses checks console_tail findings id machine name os point recovered_ms server \
         start_error steps"
    );
    assert_eq!(
        keys(&json["servers"][0]["checks"][0]),
        "attempts duration_ms evidence expectation kind name reason required started_ms status timeout_ms"
    );
    assert_eq!(
        keys(&json["servers"][0]["steps"][0]),
        "duration_ms name started_ms"
    );
    assert_eq!(keys(&json["servers"][0]["point"]), "age_ms id taken");
    assert_eq!(
        keys(&json["objectives"]["rpo"]),
        "measured_ms met objective_ms"
    );
    assert_eq!(json["verdict"], "failed");
    assert_eq!(json["servers"][0]["checks"][2]["status"], "not-run");
    assert_eq!(json["started"], "2026-11-22T00:00:00.000Z");
}

#[test]
fn files_are_written_whole() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("a/b");
    write(&sample::failed("x"), &place).unwrap();
    let mut names: Vec<_> = std::fs::read_dir(&place)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["report.html", "report.json"]);
    let json = std::fs::read(place.join("report.json")).unwrap();
    assert_eq!(
        serde_json::from_slice::<Value>(&json).unwrap()["schema"],
        SCHEMA
    );

    let file = dir.path().join("file");
    std::fs::write(&file, b"").unwrap();
    assert!(write(&sample::failed("x"), &file.join("below")).is_err());
}

#[test]
fn an_unmeasured_objective_is_missed() {
    let limit = Some(Duration::from_secs(1));
    assert_eq!(Objective::new(limit, Some(1000)).met, Some(true));
    assert_eq!(Objective::new(limit, Some(1001)).met, Some(false));
    assert_eq!(Objective::new(limit, None).met, Some(false));
    assert_eq!(Objective::new(None, Some(1)).met, None);
}
