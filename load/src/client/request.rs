//! Requests, as bytes.

use std::net::SocketAddr;

/// One request; it may be sent any number of times.
#[derive(Clone, Debug)]
pub struct Request {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Option<Vec<u8>>,
}

impl Request {
    /// A request of any method; `path` may carry a query.
    #[must_use]
    pub fn new(method: &str, path: &str) -> Self {
        Self { method: method.to_owned(), path: path.to_owned(), headers: Vec::new(), body: None }
    }

    /// A `GET`.
    #[must_use]
    pub fn get(path: &str) -> Self {
        Self::new("GET", path)
    }

    /// A `POST`, for now without a body.
    #[must_use]
    pub fn post(path: &str) -> Self {
        Self::new("POST", path)
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds a bearer token.
    #[must_use]
    pub fn bearer(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    /// Gives it a body, sent with its length.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Some(body.into());
        self
    }

    /// Gives it a JSON body.
    #[must_use]
    pub fn json(self, body: &str) -> Self {
        self.header("content-type", "application/json").body(body)
    }

    /// Writes the request as it goes over the wire. Headers given here or by the client replace `host` and
    /// `content-length`, which are added otherwise.
    #[must_use]
    pub fn encode(&self, host: SocketAddr, shared: &[(String, String)]) -> Vec<u8> {
        let given = |name: &str| self.headers.iter().chain(shared).any(|(known, _)| known.eq_ignore_ascii_case(name));
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.path);
        if !given("host") {
            head.push_str(&format!("host: {host}\r\n"));
        }
        for (name, value) in shared.iter().chain(&self.headers) {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let framed = given("content-length") || given("transfer-encoding");
        if let Some(body) = self.body.as_ref().filter(|_| !framed) {
            head.push_str(&format!("content-length: {}\r\n", body.len()));
        } else if self.method == "POST" && !framed {
            head.push_str("content-length: 0\r\n");
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(self.body.as_deref().unwrap_or_default());
        bytes
    }
}
