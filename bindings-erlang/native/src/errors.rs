//! Core errors as `{error, Map}`.

use hstreamdb::Error;
use rustler::{Atom, Encoder, Env, Term};

mod atoms {
    rustler::atoms! { error, undefined, kind, message, status, code, extra, node, may_have_been_applied }
}

/// `{error, #{kind, message, status, code, extra, node, may_have_been_applied}}`.
pub fn error_term<'a>(env: Env<'a>, error: &Error) -> Term<'a> {
    (atoms::error(), error_map(env, error)).encode(env)
}

/// The map alone.
pub fn error_map<'a>(env: Env<'a>, error: &Error) -> Term<'a> {
    // Kind names come from the core's fixed table, so no outside text becomes an atom.
    let kind = Atom::from_str(env, error.kind().name()).unwrap_or_else(|_| atoms::error());
    let keys = [
        atoms::kind(),
        atoms::message(),
        atoms::status(),
        atoms::code(),
        atoms::extra(),
        atoms::node(),
        atoms::may_have_been_applied(),
    ];
    let values = [
        kind.encode(env),
        error.to_string().encode(env),
        optional(env, error.status()),
        optional(env, error.code()),
        optional(env, error.extra_json()),
        optional(env, error.node()),
        error.may_have_been_applied().encode(env),
    ];
    keys.iter().zip(values).fold(Term::map_new(env), |map, (key, value)| {
        // A key of the same environment always fits into a map of it.
        map.map_put(*key, value).unwrap_or(map)
    })
}

/// `undefined` where there is nothing.
pub fn optional<'a>(env: Env<'a>, value: Option<impl Encoder>) -> Term<'a> {
    value.map_or_else(|| atoms::undefined().encode(env), |value| value.encode(env))
}
