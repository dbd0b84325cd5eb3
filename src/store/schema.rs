//! The tables as both databases have them (`migrations/`). The books' own tables are only written set-wise, by the
//! statements in `sql/`.

diesel::table! {
    store_identity (only_row) {
        only_row -> Bool,
        id -> Text,
    }
}

diesel::table! {
    classes (id) {
        id -> Integer,
        name -> Text,
    }
}

diesel::table! {
    plans (id) {
        id -> Integer,
        name -> Text,
        open -> Bool,
        requests_per_minute -> Nullable<BigInt>,
        concurrent_streams -> Nullable<BigInt>,
    }
}

diesel::table! {
    plan_limits (plan_id, class_id) {
        plan_id -> Integer,
        class_id -> Integer,
        window_kind -> SmallInt,
        requests -> Nullable<BigInt>,
        tokens -> Nullable<BigInt>,
        cost_nanodollars -> Nullable<BigInt>,
    }
}

diesel::table! {
    users (id) {
        id -> BigInt,
        name -> Text,
        role -> Text,
        plan_id -> Integer,
        disabled -> Bool,
        version -> BigInt,
        created_at -> BigInt,
    }
}

diesel::table! {
    api_keys (id) {
        id -> Text,
        sha256 -> Binary,
        user_id -> BigInt,
        created_at -> BigInt,
        expires_at -> Nullable<BigInt>,
        last_used_at -> Nullable<BigInt>,
        revoked_at -> Nullable<BigInt>,
    }
}

diesel::table! {
    revoked_tokens (sha256) {
        sha256 -> Binary,
        expires_at -> BigInt,
    }
}

diesel::table! {
    models (id) {
        id -> BigInt,
        name -> Text,
        class_id -> Integer,
        provider -> Text,
        upstream_model -> Text,
        input_price -> BigInt,
        output_price -> BigInt,
        context -> Nullable<BigInt>,
        max_output -> Nullable<BigInt>,
        fallbacks -> Text,
        origin -> Text,
        removed -> Bool,
    }
}

diesel::table! {
    change_counter (only_row) {
        only_row -> Bool,
        seq -> BigInt,
    }
}

diesel::table! {
    changes (seq) {
        seq -> BigInt,
        kind -> SmallInt,
        subject -> Text,
        until -> Nullable<BigInt>,
        at -> BigInt,
    }
}

diesel::allow_tables_to_appear_in_same_query!(api_keys, users, plans);
