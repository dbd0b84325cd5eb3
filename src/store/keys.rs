//! API keys and revoked JWTs: hashes, with their ends.

use std::collections::HashMap;

use actors::{
    domain::{Position, Timestamp, TokenHash, UserId},
    ports::{Change, KeyRecord, StoreError},
};
use diesel::{ExpressionMethods, QueryDsl, QueryableByName, sql_types};
use uuid::Uuid;

use super::{
    Store, changes,
    fault::Fault,
    link::{Link, Postgres, Sqlite},
    schema::{api_keys, revoked_tokens, users},
    sql::sql,
    users::user_id,
};

/// The most expired revocations that one revocation clears away.
const CLEARED: i64 = 100;

/// An API key to be kept. The key itself is shown once by whoever made it and never comes here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewKey {
    /// Whose it is.
    pub user: UserId,
    /// The hash of it.
    pub hash: TokenHash,
    /// Its end, if it has one.
    pub expires_at: Option<Timestamp>,
}

/// An API key as listings show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRow {
    /// What it is called: `key_…`.
    pub id: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// Its end, if it has one.
    pub expires_at: Option<Timestamp>,
    /// When it was last used, to within a flush.
    pub last_used_at: Option<Timestamp>,
    /// When it was revoked, if it was.
    pub revoked_at: Option<Timestamp>,
}

impl Store {
    /// Keeps a new key and returns what it is called from now on: `key_…`.
    ///
    /// # Errors
    /// [`StoreError::Mistaken`]: there is no such user.
    pub async fn create_key(&self, key: NewKey) -> Result<String, StoreError> {
        let create = async move |link: &mut Link| {
            changes::note(link, &Change::Key(key.hash)).await?;
            let user = user_key(link, &key.user).await?;
            let id = format!("key_{}", Uuid::now_v7().simple());
            link.execute(diesel::insert_into(api_keys::table).values((
                api_keys::id.eq(id.clone()),
                api_keys::sha256.eq(key.hash.0.to_vec()),
                api_keys::user_id.eq(user),
                api_keys::expires_at.eq(key.expires_at.map(|end| end.0)),
            )))
            .await?;
            Ok(id)
        };
        Ok(self.write("key.create", create).await?)
    }

    /// Revokes a key; `false` if there is none of that id, or it was revoked before.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn revoke_key(&self, id: &str) -> Result<bool, StoreError> {
        let id = id.to_owned();
        let revoke = async move |link: &mut Link| {
            let live = api_keys::table.filter(api_keys::id.eq(id)).filter(api_keys::revoked_at.is_null());
            let hash: Vec<u8> = link.find(live.clone().select(api_keys::sha256)).await?.ok_or(Fault::Superfluous)?;
            changes::note(link, &Change::Key(token_hash(&hash)?)).await?;
            let now = link.now().await?;
            let revoked = link.execute(diesel::update(live).set(api_keys::revoked_at.eq(now))).await?;
            if revoked == 1 { Ok(true) } else { Err(Fault::Superfluous) }
        };
        match self.write("key.revoke", revoke).await {
            Err(Fault::Superfluous) => Ok(false),
            revoked => Ok(revoked?),
        }
    }

    /// Lists the keys of a user, the oldest first.
    ///
    /// # Errors
    /// [`StoreError::Mistaken`]: there is no such user.
    pub async fn keys(&self, user: &UserId) -> Result<Vec<KeyRow>, StoreError> {
        let user = user.clone();
        let list = async move |link: &mut Link| {
            let user = user_key(link, &user).await?;
            let rows: Vec<Stored> = link
                .load(
                    api_keys::table
                        .filter(api_keys::user_id.eq(user))
                        .order((api_keys::created_at, api_keys::id))
                        .select((
                            api_keys::id,
                            api_keys::created_at,
                            api_keys::expires_at,
                            api_keys::last_used_at,
                            api_keys::revoked_at,
                        )),
                )
                .await?;
            let row = |(id, created_at, expires_at, last_used_at, revoked_at): Stored| KeyRow {
                id,
                created_at: Timestamp(created_at),
                expires_at: expires_at.map(Timestamp),
                last_used_at: last_used_at.map(Timestamp),
                revoked_at: revoked_at.map(Timestamp),
            };
            Ok(rows.into_iter().map(row).collect())
        };
        Ok(self.snapshot("key.list", &self.0.read, None, list).await?)
    }

    /// Revokes a JWT until its end.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn revoke_token(&self, token: TokenHash, expires_at: Timestamp) -> Result<(), StoreError> {
        let revoke = async move |link: &mut Link| {
            changes::note(link, &Change::Token(token, expires_at)).await?;
            let now = link.now().await?;
            let clear = "DELETE FROM revoked_tokens WHERE sha256 IN \
                (SELECT sha256 FROM revoked_tokens WHERE expires_at < $1 ORDER BY expires_at LIMIT $2)";
            link.execute(sql!(clear, sql_types::BigInt = now, sql_types::BigInt = CLEARED)).await?;
            link.execute(
                diesel::insert_into(revoked_tokens::table)
                    .values((revoked_tokens::sha256.eq(token.0.to_vec()), revoked_tokens::expires_at.eq(expires_at.0)))
                    .on_conflict_do_nothing(),
            )
            .await?;
            Ok(())
        };
        Ok(self.write("token.revoke", revoke).await?)
    }
}

/// Id, made at, end, last use, revoked at.
type Stored = (String, i64, Option<i64>, Option<i64>, Option<i64>);

#[derive(QueryableByName)]
struct KnownRow {
    #[diesel(sql_type = sql_types::Binary)]
    sha256: Vec<u8>,
    #[diesel(sql_type = sql_types::Text)]
    name: String,
    #[diesel(sql_type = sql_types::Nullable<sql_types::BigInt>)]
    expires_at: Option<i64>,
    #[diesel(sql_type = sql_types::Nullable<sql_types::BigInt>)]
    revoked_at: Option<i64>,
    #[diesel(sql_type = sql_types::BigInt)]
    as_of: i64,
    #[diesel(sql_type = sql_types::BigInt)]
    as_of_at: i64,
}

/// Finds keys, in one statement.
pub(super) async fn find_all(
    link: &mut Link,
    keys: impl Iterator<Item = &TokenHash>,
) -> Result<HashMap<TokenHash, KeyRecord>, Fault> {
    let hashes: Vec<String> = keys.map(|key| key.to_hex()).collect();
    let text = link.text(include_str!("sql/postgres/find_keys.sql"), include_str!("sql/sqlite/find_keys.sql"));
    let rows: Vec<KnownRow> = link.load(sql!(text, sql_types::Text = serde_json::json!(hashes).to_string())).await?;
    let record = |row: KnownRow| {
        let (user, expires_at) = (user_id(row.name)?, row.expires_at.map(Timestamp));
        let (revoked, as_of) = (row.revoked_at.is_some(), Position { seq: row.as_of, at: row.as_of_at });
        Ok((token_hash(&row.sha256)?, KeyRecord { user, expires_at, revoked, as_of }))
    };
    rows.into_iter().map(record).collect()
}

/// Notes when keys were last used. Rows that somebody else holds are left out: it is only a note, and never waiting
/// for a row rules out a deadlock.
pub(super) async fn touch(link: &mut Link, used: &[(TokenHash, Timestamp)]) -> Result<(), Fault> {
    match link {
        Link::Postgres(link) => touch_postgres(link, used).await,
        Link::Sqlite(link) => touch_sqlite(link, used).await,
    }
}

async fn touch_postgres(link: &mut Postgres, used: &[(TokenHash, Timestamp)]) -> Result<(), Fault> {
    use diesel_async::RunQueryDsl;
    use sql_types::{Array, BigInt, Binary};
    let (keys, times): (Vec<&[u8]>, Vec<i64>) = used.iter().map(|(key, at)| (&key.0[..], at.0)).unzip();
    let text = include_str!("sql/postgres/touch_keys.sql");
    sql!(text, Array<Binary> = keys, Array<BigInt> = times).execute(link).await?;
    Ok(())
}

async fn touch_sqlite(link: &mut Sqlite, used: &[(TokenHash, Timestamp)]) -> Result<(), Fault> {
    use diesel_async::RunQueryDsl;
    let used: Vec<(String, i64)> = used.iter().map(|(key, at)| (key.to_hex(), at.0)).collect();
    let text = include_str!("sql/sqlite/touch_keys.sql");
    sql!(text, sql_types::Text = serde_json::json!(used).to_string()).execute(link).await?;
    Ok(())
}

/// Returns the revoked JWTs that haven't expired.
pub(super) async fn revoked_tokens(link: &mut Link) -> Result<Vec<(TokenHash, Timestamp)>, Fault> {
    let now = link.now().await?;
    let rows: Vec<(Vec<u8>, i64)> = link.load(revoked_tokens::table.filter(revoked_tokens::expires_at.gt(now))).await?;
    rows.into_iter().map(|(hash, end)| Ok((token_hash(&hash)?, Timestamp(end)))).collect()
}

async fn user_key(link: &mut Link, user: &UserId) -> Result<i64, Fault> {
    let key = link.find(users::table.filter(users::name.eq(user.as_str().to_owned())).select(users::id)).await?;
    key.ok_or_else(|| Fault::Mistaken(format!("There is no user {user}.")))
}

fn token_hash(bytes: &[u8]) -> Result<TokenHash, Fault> {
    match bytes.try_into() {
        Ok(hash) => Ok(TokenHash(hash)),
        Err(_) => Err(Fault::Refused("a hash has 32 bytes".into())),
    }
}
