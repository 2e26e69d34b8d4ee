"""One [prefix."…"] section → one PrefixRule: what its keys mean together, and which combinations are nonsense.

The keys have been checked one by one. What needs the live schema (does the table exist, has it those columns, is there
a unique key) is persistence/mapping.py's, and `forebay check --connect` asks it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from persistence.prefixes import HOT_KEYS, NO_WARM_UP, PrefixRule, Template, TemplateError
from server.config_model import PrefixModel, Refused, ValueSpec
from server.config_units import Amount, suggestion

_JSON: Final = ValueSpec("json")
# Unless the TTL is shorter: then that is the default, so that a short `ttl` alone is never nonsense.
_NEGATIVE_TTL_S: Final = 5.0
_WRITE_DELAY_S: Final = 1.0
_MAX_DIRTY: Final = Amount(share=0.25)
# What a share of unlimited memory comes to.
_MAX_DIRTY_UNLIMITED: Final = 64 << 20


def build_rule(text: str, model: PrefixModel, stores: Mapping[str, str], maxmemory: int) -> PrefixRule:
    """The rule of the section named `text`; `stores` gives the kind of each store. Raises Refused."""
    try:
        template = Template(text)
    except TemplateError as error:
        raise Refused(("prefix",), str(error)) from None
    value = model.value or _JSON
    rule = PrefixRule(
        template=template,
        store=model.store,
        read=model.read,
        write=model.write,
        table=model.table,
        value=value.kind,
        column=value.columns[0] if value.columns else "",
        score=value.columns[1] if len(value.columns) > 1 else "",
        columns=model.columns,
        load=model.load,
        upsert=model.upsert,
        delete=model.delete,
        ttl_s=model.ttl,
        ttl_jitter=model.ttl_jitter,
        negative_ttl_s=_within_ttl(model.negative_ttl, _NEGATIVE_TTL_S, model.ttl),
        refresh_at=model.refresh_at,
        load_timeout_s=model.load_timeout,
        load_batch=model.load_batch,
        write_delay_s=_within_ttl(model.write_delay, _WRITE_DELAY_S, model.ttl),
        write_batch=model.write_batch,
        max_dirty=_max_dirty(model.max_dirty, maxmemory),
        on_full=model.on_full,
        retry_limit=model.retry_limit,
        on_dead=model.on_dead,
        unmapped=model.unmapped,
        invalidate=model.invalidate,
        early_expiry=model.early_expiry,
        stale_while_revalidate_s=model.stale_while_revalidate,
        stale_if_error_s=model.stale_if_error,
        load_soft_timeout_s=model.load_soft_timeout,
        tags=model.tags,
        warm=model.warm,
    )
    for refusal in (
        _refuse_store(rule, stores),
        _refuse_times(rule),
        _refuse_mapping(rule, model),
        _refuse_children(rule),
        _refuse_sql(rule, stores),
        _refuse_invalidate(rule, stores),
        _refuse_warm(rule, stores),
    ):
        if refusal is not None:
            key, reason = refusal
            raise Refused(("prefix", text, key), reason)
    return rule


def _within_ttl(given: float | None, default: float, ttl: float) -> float:
    if given is not None:
        return given
    return min(default, ttl) if ttl else default


def _max_dirty(given: Amount | None, maxmemory: int) -> int:
    amount = given or _MAX_DIRTY
    if amount.share and not maxmemory:
        return _MAX_DIRTY_UNLIMITED
    return amount.of(maxmemory)


# Each of the following answers (key, what is wrong; what was meant), or None.
_Refusal = tuple[str, str] | None


def _refuse_store(rule: PrefixRule, stores: Mapping[str, str]) -> _Refusal:
    if rule.store and rule.store not in stores:
        return "store", f"there is no [stores.{rule.store}]; {suggestion(rule.store, stores)}"
    if not rule.store and (rule.loads or rule.saves):
        key, strategy = ("read", rule.read) if rule.loads else ("write", rule.write)
        hint = f"known are {', '.join(stores)}" if stores else "there is no [stores.NAME] section yet"
        return "store", f'is required with {key} = "{strategy}"; {hint}'
    return None


def _refuse_times(rule: PrefixRule) -> _Refusal:
    if rule.ttl_s and rule.negative_ttl_s > rule.ttl_s:
        return "negative_ttl", "is longer than ttl: an absent row would be remembered longer than a present one"
    if rule.ttl_s and rule.write_delay_s > rule.ttl_s:
        return "write_delay", "is longer than ttl: values would expire before they are saved"
    if rule.read == "refresh-ahead" and not rule.ttl_s:
        return "ttl", 'is "0" (none), so nothing grows old; read = "refresh-ahead" needs a ttl, read-through does not'
    if not rule.max_dirty:
        return "max_dirty", 'leaves no room for any unsaved write; for example "64mb"'
    return None


def _refuse_mapping(rule: PrefixRule, model: PrefixModel) -> _Refusal:
    names = rule.template.names
    if rule.generic:
        for key in ("value", "columns", "upsert", "delete"):
            if getattr(model, key):
                return key, "needs a table (or a load statement); the generic table has a form of its own"
        return None
    key = "table" if rule.table else "load"
    if not names:
        return key, f"needs captures in the template, which are the row's key; for example {rule.name + '{id:int}'!r}"
    if rule.value == "column":
        if rule.columns:
            return "columns", "has no effect beside value = { column = … }; leave one of them out"
        if rule.column in names:
            return "value", f"the column {rule.column!r} is part of the key; name a column that holds the value"
    return None


# Of a key that is many rows.
def _refuse_children(rule: PrefixRule) -> _Refusal:
    if not rule.has_children:
        return None
    names = rule.template.names
    form = f"value = {{ {rule.value} = … }}"
    if rule.columns:
        return "columns", f"has no effect beside {form}, which names the columns; leave it out"
    if rule.column in names:
        return "value", f"the column {rule.column!r} is part of the key; name the column that holds the members"
    if rule.score and rule.score in (*names, rule.column):
        return "value", f"the column {rule.score!r} cannot be the score as well; name a column that holds numbers"
    for key in ("upsert", "delete"):
        if getattr(rule, key):
            return key, f"is for keys that are one row, and with {form} a key is many; leave it out"
    if rule.saves and not rule.table:
        return "table", f"is required to write members: each is a row of it, with column {rule.column!r}"
    if rule.write == "write-around":
        return "write", (
            f'"write-around" drops the cached copy at each write, so every member that is written into {rule.column!r}'
            ' would cost the next reader the whole set; choose "write-through" or "write-behind"'
        )
    for tag in rule.tags:
        if tag not in names:
            return "tags", f"{tag!r} is not a capture: a key that is many rows has only its key columns in common"
    return None


def _refuse_sql(rule: PrefixRule, stores: Mapping[str, str]) -> _Refusal:
    custom = [(key, sql) for key in ("load", "upsert", "delete") if (sql := getattr(rule, key))]
    for key, sql in custom:
        if not sql.strip():
            return key, "is an empty statement"
        if key != "load" and not rule.saves:
            return key, 'has no effect while write = "cache-aside"; choose a strategy that writes'
        if stores.get(rule.store) == "memory":
            return key, f"the store {rule.store!r} is memory: and knows no SQL"
    # Without a table nothing tells us where to write. (Without `delete` only deleting is refused.)
    if rule.load and not rule.table and rule.saves and not rule.upsert:
        return "upsert", 'is required to write without a table; or name the table, or choose write = "cache-aside"'
    return None


def _refuse_warm(rule: PrefixRule, stores: Mapping[str, str]) -> _Refusal:
    if rule.warm == NO_WARM_UP:
        return None
    words = (NO_WARM_UP, HOT_KEYS)
    if rule.warm != HOT_KEYS and len(rule.warm.split()) < 2:
        return "warm", f"is {rule.warm!r}, neither a word of ours nor SQL; {suggestion(rule.warm, words)}"
    if not rule.store:
        return "warm", "has nothing to load from; name the store"
    if rule.warm != HOT_KEYS and stores.get(rule.store) == "memory":
        return "warm", f"the store {rule.store!r} is memory: and knows no SQL"
    return None


def _refuse_invalidate(rule: PrefixRule, stores: Mapping[str, str]) -> _Refusal:
    if rule.invalidate == "none":
        return None
    kind = stores.get(rule.store)
    if kind is None:
        return "invalidate", '"notify" follows a table, and there is no store; name the store and the table'
    if kind == "sqlite":
        return "invalidate", (
            f'"notify" needs PostgreSQL, and {rule.store!r} is a SQLite file, which tells nobody of its changes; leave'
            ' it "none", choose a short ttl, and let other writers send CACHE.INVALIDATE key'
        )
    if kind == "memory":
        return "invalidate", f'"notify" needs PostgreSQL; nobody but us can change {rule.store!r}: leave it "none"'
    if rule.load and not rule.table:
        return "invalidate", '"notify" follows a table, and load alone names none; name the table, or leave it "none"'
    return None
