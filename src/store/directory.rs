//! [`Directory`]: whom the engine asks for callers, keys and revocations.

use actors::{
    domain::{CallerRecord, Timestamp, TokenHash, UserId},
    ports::{Changes, Directory, KeyRecord, StoreError},
};
use futures_util::future::BoxFuture;

use super::{
    Store, changes, keys,
    link::Link,
    users::{self, NewCaller},
};

impl Directory for Store {
    fn caller<'a>(&'a self, user: &'a UserId) -> BoxFuture<'a, Result<Option<CallerRecord>, StoreError>> {
        let (user, store) = (user.clone(), self.clone());
        let look_up = move |users| find_all(store.clone(), users);
        Box::pin(self.0.lookups.ask(&self.0.io, user, look_up))
    }

    fn provision<'a>(
        &'a self,
        user: &'a UserId,
        plan: Option<&'a str>,
    ) -> BoxFuture<'a, Result<CallerRecord, StoreError>> {
        let (new, store) = (NewCaller { id: user.clone(), plan: plan.map(str::to_owned) }, self.clone());
        let add = move |new| provision_all(store.clone(), new);
        Box::pin(self.0.additions.ask(&self.0.io, new, add))
    }

    fn key<'a>(&'a self, key: &'a TokenHash) -> BoxFuture<'a, Result<Option<KeyRecord>, StoreError>> {
        let (key, store) = (*key, self.clone());
        let look_up = move |keys| find_keys(store.clone(), keys);
        Box::pin(self.0.key_lookups.ask(&self.0.io, key, look_up))
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

async fn find_all(store: Store, asked: Vec<UserId>) -> Result<Vec<Option<CallerRecord>>, StoreError> {
    let find = async move |link: &mut Link| {
        let known = users::find_all(link, asked.iter()).await?;
        Ok(asked.iter().map(|user| known.get(user).cloned()).collect())
    };
    Ok(store.read("user.find", find).await?)
}

async fn find_keys(store: Store, asked: Vec<TokenHash>) -> Result<Vec<Option<KeyRecord>>, StoreError> {
    let find = async move |link: &mut Link| {
        let known = keys::find_all(link, asked.iter()).await?;
        Ok(asked.iter().map(|key| known.get(key).cloned()).collect())
    };
    Ok(store.read("key.find", find).await?)
}

async fn provision_all(store: Store, new: Vec<NewCaller>) -> Result<Vec<CallerRecord>, StoreError> {
    let provision = async move |link: &mut Link| users::provision_all(link, &new).await;
    Ok(store.write("user.provision", provision).await?)
}
