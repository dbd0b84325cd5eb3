//! [`Directory`]: whom the engine asks for callers, keys and revocations.

use actors::{
    domain::{CallerRecord, Timestamp, TokenHash, UserId},
    ports::{Changes, Directory, KeyRecord, StoreError},
};
use futures_util::future::BoxFuture;

use super::{Store, changes, fault::Fault, keys, link::Link, users};

impl Directory for Store {
    fn caller<'a>(&'a self, user: &'a UserId) -> BoxFuture<'a, Result<Option<CallerRecord>, StoreError>> {
        let user = user.clone();
        let find = async move |link: &mut Link| users::find(link, &user).await;
        Box::pin(async move { Ok(self.read("user.find", find).await?) })
    }

    fn provision<'a>(
        &'a self,
        user: &'a UserId,
        plan: Option<&'a str>,
    ) -> BoxFuture<'a, Result<CallerRecord, StoreError>> {
        Box::pin(async move {
            if let Some(known) = self.caller(user).await? {
                return Ok(known);
            }
            let (id, plan) = (user.clone(), plan.map(str::to_owned));
            let add = async move |link: &mut Link| {
                users::add(link, &id, plan.as_deref()).await?;
                users::find(link, &id).await
            };
            let added = match self.write("user.provision", add).await {
                Err(Fault::Superfluous) => self.caller(user).await?,
                added => added?,
            };
            added.ok_or_else(|| StoreError::Refused(format!("user {user} can't be added")))
        })
    }

    fn key<'a>(&'a self, key: &'a TokenHash) -> BoxFuture<'a, Result<Option<KeyRecord>, StoreError>> {
        let key = *key;
        let find = async move |link: &mut Link| keys::find(link, key).await;
        Box::pin(async move { Ok(self.read("key.find", find).await?) })
    }

    fn touch_keys<'a>(&'a self, used: &'a [(TokenHash, Timestamp)]) -> BoxFuture<'a, Result<(), StoreError>> {
        let used = used.to_vec();
        let touch = async move |link: &mut Link| keys::touch(link, &used).await;
        Box::pin(async move { Ok(self.write("key.touch", touch).await?) })
    }

    fn revoked_tokens(&self) -> BoxFuture<'_, Result<Vec<(TokenHash, Timestamp)>, StoreError>> {
        Box::pin(async move {
            Ok(self.read("token.revoked", async |link: &mut Link| keys::revoked_tokens(link).await).await?)
        })
    }

    fn changes(&self, after: i64) -> BoxFuture<'_, Result<Changes, StoreError>> {
        let poll = async move |link: &mut Link| changes::after(link, after).await;
        Box::pin(async move { Ok(self.read("changes", poll).await?) })
    }

    fn recent_changes(&self) -> BoxFuture<'_, Result<Changes, StoreError>> {
        let recent = async |link: &mut Link| changes::recent(link).await;
        Box::pin(async move { Ok(self.snapshot("changes.recent", &self.0.read, None, recent).await?) })
    }
}
