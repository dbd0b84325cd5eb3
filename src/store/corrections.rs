//! Corrections: what an operator adds to the books, or takes out of them.

use actors::{
    domain::{AccountKey, Amounts, ModelKey, Outcome, Portion, Posting, Timestamp, UserId, WindowKind},
    ports::{LeaseKey, Recall, StoreError},
};
use diesel::sql_types::Text;
use uuid::Uuid;

use super::{Store, changes, fault::Fault, ledger, link::Link, plans, sql::sql, users};

/// The largest figure of a correction, either way: a million dollars, and far from where sums could overflow.
const MOST: i64 = 1_000_000_000_000_000;
/// The most bytes of a reason.
const LONGEST_REASON: usize = 1_000;

/// A correction as an operator states it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Correction {
    /// Whose account.
    pub user: UserId,
    /// In which class.
    pub class: String,
    /// What is added; negative figures give quota back. At most 10^15 each, either way.
    pub amounts: Amounts,
    /// Why: up to 1,000 bytes.
    pub reason: String,
}

impl Store {
    /// Writes a correction as a posting that is opened and settled now, and has all instances forget what they know of
    /// the account. Returns the posting.
    ///
    /// # Errors
    /// [`StoreError::Mistaken`]: there is no such user or class, no figure, one too large, or no reason.
    pub async fn adjust(&self, correction: Correction) -> Result<Posting, StoreError> {
        check(&correction).map_err(StoreError::Mistaken)?;
        let adjust = async move |link: &mut Link| adjust(link, &correction).await;
        Ok(self.write("ledger.adjust", adjust).await?)
    }
}

fn check(Correction { amounts, reason, .. }: &Correction) -> Result<(), String> {
    let Amounts { requests, prompt_tokens, completion_tokens, cost } = amounts;
    if *amounts == Amounts::ZERO {
        return Err("A correction has a figure that isn't 0.".into());
    }
    if [requests, prompt_tokens, completion_tokens, &cost.0]
        .into_iter()
        .any(|figure| figure.unsigned_abs() > MOST.unsigned_abs())
    {
        return Err(format!("A figure of a correction is at most {MOST}, either way."));
    }
    if reason.trim().is_empty() || reason.len() > LONGEST_REASON {
        return Err(format!("A correction has a reason of at most {LONGEST_REASON} bytes."));
    }
    Ok(())
}

/// The change number comes before the totals, as in all transactions that take one; exchanges and batches don't.
async fn adjust(link: &mut Link, correction: &Correction) -> Result<Posting, Fault> {
    let Correction { user, class, amounts, reason } = correction;
    let caller = users::find(link, user).await?.ok_or_else(|| Fault::Mistaken(format!("There is no user {user}.")))?;
    let class = plans::named_class(link, class).await?;
    let now = Timestamp(link.now().await?);
    let posting = Posting {
        id: Uuid::now_v7(),
        user: caller.key,
        class,
        model: ModelKey::PASSED_THROUGH,
        opened_at: now,
        settled_at: now,
        outcome: Outcome::Adjusted,
        estimated: false,
        amounts: *amounts,
        window: WindowKind::Day,
        leased: Portion::ZERO,
    };
    let account: AccountKey = posting.account();
    let forget = posting.windows().map(|window| Recall { instance: Uuid::nil(), key: LeaseKey { account, window } });
    changes::note_recalls(link, &forget).await?;
    ledger::add(link, std::slice::from_ref(&posting)).await?;
    let text = link
        .text("UPDATE postings SET reason = $1 WHERE id = $2::uuid", "UPDATE postings SET reason = $1 WHERE id = $2");
    link.execute(sql!(text, Text = reason.trim(), Text = posting.id.to_string())).await?;
    Ok(posting)
}
