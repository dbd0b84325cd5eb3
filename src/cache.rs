//! Stub.
use actors::domain::*;
use futures_util::future::BoxFuture;
use secrecy::SecretString;
/// x
pub struct Config {
    /// x
    pub url: Option<SecretString>,
    /// x
    pub timeout: std::time::Duration,
}
/// x
pub struct Cache;
impl Cache {
    /// x
    pub fn new(_: &Config, _: &crate::io::IoHandle) -> Result<Self, String> {
        Ok(Self)
    }
    /// x
    pub async fn ping(&self) -> Result<(), String> {
        std::future::ready(Ok(())).await
    }
}
impl actors::ports::SharedCache for Cache {
    fn caller<'a>(&'a self, _: &'a UserId) -> BoxFuture<'a, Option<CallerRecord>> {
        Box::pin(async { None })
    }
    fn post_caller(&self, _: &CallerRecord) {}
    fn user_of_key<'a>(&'a self, _: &'a TokenHash) -> BoxFuture<'a, Option<UserId>> {
        Box::pin(async { None })
    }
    fn post_user_of_key(&self, _: &TokenHash, _: &UserId, _: Option<Timestamp>) {}
    fn post_usage(&self, _: &UserId, _: serde_json::Value) {}
    fn healthy(&self) -> Option<bool> {
        None
    }
}
