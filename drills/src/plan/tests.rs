#![allow(clippy::unwrap_used)]
use super::*;

const CHECK: &str = "[[check]]\nkind = \"tcp\"\nport = 22\n";

fn parse(text: &str) -> Result<Plan, PlanError> {
    Plan::parse(text, "plan.toml", Path::new("/nonexistent"))
}

/// The plan is refused, and both key and remedy are named.
fn refused(text: &str, key: &str, remedy: &str) {
    let error = parse(text).unwrap_err();
    assert!(
        error.to_string().contains(key),
        "{error} does not name {key}"
    );
    assert!(
        error.remedy.contains(remedy),
        "{} lacks {remedy}",
        error.remedy
    );
}

#[test]
fn a_short_plan_takes_the_defaults() {
    let plan = parse(&format!("name = \"weekly\"\nserver = \"web1\"\n{CHECK}")).unwrap();
    assert_eq!(plan.servers.len(), 1);
    assert_eq!(plan.servers[0].server, "web1");
    assert_eq!(plan.servers[0].point, "latest");
    assert_eq!(plan.time_limit, DEFAULT_TIME_LIMIT);
    assert!(plan.servers[0].checks[0].required);
    assert_eq!(plan.servers[0].checks[0].timeout, DEFAULT_CHECK_TIMEOUT);
    assert_eq!(plan.objectives, Objectives::default());
}

#[test]
fn a_full_plan_with_several_servers() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("vmlinux"), b"kernel").unwrap();
    let text = r#"
        name = "shop"
        description = "The shop and its database"
        time_limit = "2h"
        cpus = 2
        site_kernel = "vmlinux"
        [network]
        gateway = "10.1.2.1/24"
        [objectives]
        rpo = "1d"
        rto = "30m"
        required = true
        [[server]]
        name = "db"
        memory_mib = 2048
        [[server.check]]
        kind = "console"
        pattern = 'login: *$'
        timeout = "15m"
        [[server]]
        name = "web"
        point = "2026-11-22T00:00:00Z"
        cpus = 1
        address = "10.1.2.9/24"
        [[server.check]]
        kind = "http"
        path = "/health"
        status = 204
        host = "shop.example"
        [[server.check]]
        kind = "tcp"
        port = 22
        expect = "SSH-2.0"
        required = false
        name = "ssh"
    "#;
    let plan = Plan::parse(text, "plan.toml", dir.path()).unwrap();
    let (db, web) = (&plan.servers[0], &plan.servers[1]);
    assert_eq!((db.memory_mib, db.cpus), (Some(2048), Some(2)));
    assert_eq!(db.site_kernel, Some(dir.path().join("vmlinux")));
    assert_eq!((web.memory_mib, web.cpus), (None, Some(1)));
    assert_eq!(web.point, "2026-11-22T00:00:00Z");
    assert_eq!(web.checks[1].name, "ssh");
    assert!(!web.checks[1].required);
    assert_eq!(db.gateway.unwrap().to_string(), "10.1.2.1/24");
    assert_eq!(web.address.unwrap().to_string(), "10.1.2.9/24");
    assert_eq!(plan.objectives.rpo, Some(Duration::from_secs(86_400)));
    assert!(plan.objectives.required);
}

#[test]
fn what_is_missing_is_named() {
    refused(&format!("server = \"a\"\n{CHECK}"), "`name`", "name =");
    refused(&format!("name = \"a\"\n{CHECK}"), "`server`", "server =");
    refused("name = \"a\"\nserver = \"a\"\n", "`check`", "[[check]]");
    let base = "name = \"a\"\nserver = \"a\"\n[[check]]\n";
    refused(&format!("{base}port = 1\n"), "`check[0].kind`", "kind =");
    refused(
        &format!("{base}kind = \"tcp\"\n"),
        "`check[0].port`",
        "port =",
    );
    refused(
        &format!("{base}kind = \"console\"\n"),
        "`check[0].pattern`",
        "pattern =",
    );
}

#[test]
fn unknown_and_misplaced_keys_are_named() {
    refused(&format!("nme = \"a\"\n{CHECK}"), "nme", "--help");
    let base = "name = \"a\"\nserver = \"a\"\n[[check]]\n";
    refused(
        &format!("{base}kind = \"tcp\"\nport = 1\nprot = 2\n"),
        "prot",
        "--help",
    );
    refused(
        &format!("{base}kind = \"tcp\"\nport = 1\nstatus = 200\n"),
        "`check[0].status`",
        "remove `status`",
    );
    refused(
        "name = \"a\"\n[[server]]\nname = \"a\"\ncolour = \"red\"\n",
        "colour",
        "--help",
    );
    let two = "name = \"a\"\n[[check]]\nkind = \"tcp\"\nport = 1\n[[server]]\nname = \"a\"\n[[server]]\nname = \"b\"\n";
    refused(two, "`check`", "[[server.check]]");
}

#[test]
fn wrong_values_are_named_with_what_to_write() {
    let head = "name = \"a\"\nserver = \"a\"\n";
    refused(
        &format!("name = \"../a\"\nserver = \"a\"\n{CHECK}"),
        "`name`",
        "letters",
    );
    refused(&format!("{head}cpus = 0\n{CHECK}"), "`cpus`", "1 to 254");
    // One more than the virtual machine monitor can give.
    refused(&format!("{head}cpus = 255\n{CHECK}"), "`cpus`", "1 to 254");
    refused(
        &format!("{head}memory_mib = 1\n{CHECK}"),
        "`memory_mib`",
        "64",
    );
    refused(
        &format!("{head}time_limit = \"soon\"\n{CHECK}"),
        "time_limit",
        "--help",
    );
    refused(
        &format!("{head}site_kernel = \"none\"\n{CHECK}"),
        "`site_kernel`",
        "path of a kernel",
    );
    refused(
        &format!("{head}{CHECK}[network]\ngateway = \"10.0.0.1\"\n"),
        "`network.gateway`",
        "/24",
    );
    refused(
        &format!("{head}{CHECK}[network]\naddress = \"x\"\n"),
        "`network.address`",
        "/24",
    );
    let check = |lines: &str| format!("{head}[[check]]\n{lines}\n");
    refused(&check("kind = \"ping\""), "`check[0].kind`", "\"http\"");
    refused(
        &check("kind = \"console\"\npattern = \"(\""),
        "`check[0].pattern`",
        "backslash",
    );
    refused(
        &check("kind = \"console\"\npattern = \"\""),
        "`check[0].pattern`",
        "login:",
    );
    refused(
        &check("kind = \"http\"\npath = \"index.html\""),
        "`check[0].path`",
        "beginning with /",
    );
    refused(
        &check("kind = \"http\"\npath = \"/a b\""),
        "`check[0].path`",
        "percent-encoded",
    );
    refused(
        &check("kind = \"http\"\nstatus = 99"),
        "`check[0].status`",
        "200 to 599",
    );
    refused(
        &check("kind = \"http\"\nhost = \"a\\r\\nX: y\""),
        "`check[0].host`",
        "host name",
    );
    refused(
        &check("kind = \"tcp\"\nport = 0"),
        "`check[0].port`",
        "1 to 65535",
    );
    refused(
        &check("kind = \"tcp\"\nport = 1\nrequired = false"),
        "`check`",
        "required = false",
    );
    let twins = "name = \"a\"\n[[server]]\nname = \"a\"\n[[server.check]]\nkind = \"tcp\"\nport = 1\n\
                 [[server]]\nname = \"a\"\n[[server.check]]\nkind = \"tcp\"\nport = 1\n";
    refused(twins, "twice", "remove one");
}

#[test]
fn a_pattern_that_would_fill_memory_is_refused() {
    let text = format!(
        "name = \"a\"\nserver = \"a\"\n[[check]]\nkind = \"console\"\npattern = '{}'\n",
        r"(\w{500}){500}"
    );
    refused(&text, "`check[0].pattern`", "backslash");
}

proptest::proptest! {
    /// Whatever the text, reading it ends in a plan or a refusal.
    #[test]
    fn any_text_ends_in_a_plan_or_a_refusal(text in "\\PC*") {
        let _ = parse(&text);
    }
}
