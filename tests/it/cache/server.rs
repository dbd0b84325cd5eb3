//! A private redis-server on a socket of its own, killed when the test ends.

use std::process::{Child, Command, Stdio};

/// A server, alive, frozen or dead.
pub(super) struct Server {
    folder: tempfile::TempDir,
    process: Option<Child>,
}

impl Server {
    /// Starts a server; it may take a moment until it answers.
    pub(super) fn start() -> Self {
        let mut server = Self { folder: tempfile::tempdir().unwrap(), process: None };
        server.restart();
        server
    }

    pub(super) fn url(&self) -> String {
        format!("unix://{}", self.socket())
    }

    pub(super) fn restart(&mut self) {
        let process = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket", &self.socket()])
            .current_dir(self.folder.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        self.process = Some(process);
    }

    /// Sends a command beside the cache's own connection.
    pub(super) fn command(&self, arguments: &[&str]) -> String {
        let output = Command::new("redis-cli").args(["-s", &self.socket()]).args(arguments).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim_end_matches('\n').to_owned()
    }

    pub(super) fn freeze(&self) {
        self.signal("STOP");
    }

    pub(super) fn thaw(&self) {
        self.signal("CONT");
    }

    pub(super) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    fn signal(&self, name: &str) {
        let process = self.process.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &process]).status().unwrap().success());
    }

    fn socket(&self) -> String {
        self.folder.path().join("redis.sock").to_str().unwrap().to_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
