//! The binary against real servers.

use hstream_testkit::{ServerOptions, ServerProcess};
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

fn hstream(arguments: &[&str]) -> Output {
    let binary = env!("CARGO_BIN_EXE_hstream");
    Command::new(binary).args(arguments).env_remove("HSTREAM_TOKEN").output().expect("hstream runs")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn server(flags: &[&str]) -> (ServerProcess, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
    let server = ServerProcess::start(&ServerOptions { flags, ..ServerOptions::new(dir.path()) }).unwrap();
    (server, dir)
}

#[test]
fn a_single_node_is_listed_runs_and_takes_init_as_often_as_one_likes() {
    let (server, _dir) = server(&["--server-id", "7"]);
    let port = server.port().to_string();
    let address = format!("127.0.0.1:{port}");
    let at = |words: &[&str]| hstream(&[words, &["--port", &port]].concat());

    for _ in 0..2 {
        let output = at(&["init"]);
        assert!(output.status.success(), "{}", stderr(&output));
        assert_eq!(stdout(&output), "Server successfully received init signal\n");
    }
    let listed = stdout(&at(&["node", "list"]));
    assert!(
        listed.contains("| Server Id | Address") && listed.contains(&format!("| 7         | {address} |"))
    );
    for words in [&["node", "status"][..], &["node", "status", "7"], &["node", "status", "--id", "7"]] {
        let status = stdout(&at(words));
        assert!(
            status.contains("| Server Id | State   | Address") && status.contains("| Running |"),
            "{status}"
        );
        assert!(status.contains(env!("CARGO_PKG_VERSION")), "{status}");
    }
    let output = at(&["node", "check-running"]);
    assert!(output.status.success());
    assert_eq!(stdout(&output), "All 1 nodes in the cluster are running.\n");
}

#[test]
fn too_few_nodes_and_unknown_nodes_are_failures_with_a_reason() {
    let (server, _dir) = server(&[]);
    let url = server.url();
    let output = hstream(&["node", "check-running", "-n", "3", "--service-url", &url]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stderr(&output), "hstream: 1 nodes are running, at least 3 have to\n");
    assert_eq!(stdout(&output), "");
    let output = hstream(&["--service-url", &url, "node", "status", "9"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stderr(&output), "hstream: there is no node 9 in this cluster; there are 1\n");
}

#[test]
fn a_server_with_tokens_lets_nobody_in_without_one() {
    let (server, _dir) = server(&["--token", "aHN0cmVhbTpoc3RyZWFt"]);
    let url = server.url();
    let output = hstream(&["node", "list", "--service-url", &url]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("not authenticated") && stderr(&output).contains("valid token"),
        "{}",
        stderr(&output)
    );
    let token = ["--token", "aHN0cmVhbTpoc3RyZWFt"];
    let output = hstream(&[&["node", "list", "--service-url", &url][..], &token].concat());
    assert!(output.status.success(), "{}", stderr(&output));
}

#[test]
fn no_server_is_a_failure_that_says_where_it_looked() {
    let output = hstream(&["node", "list", "--port", "1", "--retry-timeout", "0"]);
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    assert!(text.contains("127.0.0.1:1") && text.lines().count() == 1, "{text}");
    assert_eq!(text.matches("Connection refused").count(), 1, "{text}");
}

#[test]
fn a_server_that_comes_late_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    drop(socket);
    let mut waiting = Command::new(env!("CARGO_BIN_EXE_hstream"))
        .args(["node", "list", "--port", &port.to_string()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut note = String::new();
    BufReader::new(waiting.stderr.take().unwrap()).read_line(&mut note).unwrap();
    assert!(note.contains("trying again"), "{note}");
    let options = ServerOptions { port, ..ServerOptions::new(dir.path()) };
    let _server = ServerProcess::start(&options).unwrap();
    let output = waiting.wait_with_output().unwrap();
    assert!(output.status.success() && stdout(&output).contains("127.0.0.1"), "{output:?}");
}

#[test]
fn a_wrong_command_line_has_exit_code_2_and_says_what_is_wrong() {
    for (words, says) in [
        (&[][..], "Usage: hstream"),
        (&["fly"], "unrecognized subcommand 'fly'"),
        (&["node", "status", "many"], "invalid value 'many'"),
        (&["node", "list", "--host", "a", "--service-url", "hstream://a"], "cannot be used with"),
        (&["node", "list", "--tls-key", "k"], "--tls-cert"),
    ] {
        let output = hstream(words);
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        assert!(stderr(&output).contains(says), "{words:?}: {}", stderr(&output));
    }
    let version = hstream(&["-v"]);
    assert!(version.status.success() && stdout(&version).contains(env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_cluster_of_three_is_asked_through_any_of_its_nodes() {
    let (server, _dir) = server(&["--nodes", "3"]);
    let url = server.url();
    // Gossip brings the last change of a node a moment after that node is ready.
    let until = Instant::now() + Duration::from_secs(30);
    while !hstream(&["node", "check-running", "-n", "3", "--service-url", &url]).status.success() {
        assert!(Instant::now() < until, "three nodes run");
    }
    let status = stdout(&hstream(&["node", "status", "--service-url", &url]));
    assert_eq!(status.matches("| Running |").count(), 3, "{status}");
    let third = stdout(&hstream(&["node", "status", "3", "--service-url", &url]));
    let address = third.split('|').find(|cell| cell.contains("127.0.0.1")).unwrap().trim().to_owned();
    let port = address.rsplit(':').next().unwrap();
    let listed = stdout(&hstream(&["node", "list", "--port", port]));
    assert_eq!(listed.matches("127.0.0.1").count(), 3, "{listed}");
    assert!(hstream(&["init", "--port", port]).status.success(), "founding again does no harm");
}
