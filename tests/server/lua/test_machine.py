"""The machine: what scripts must not be able to do, and that it lives on after they have tried."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

import pytest

from protocol.replies import OK, BigNumber, Error, Map, SetOf, Status, Verbatim
from server.lua.machine import CompileError, Failure, Machine
from server.lua.results import read_result
from server.lua.tail_calls import without_tail_calls

TIME_LIMIT_S = 0.08
MEMORY = 6 << 20


class Replies:
    """A Run whose commands are canned."""

    def __init__(self) -> None:
        self.protocol = 2
        self.asked: list[list[bytes]] = []

    def call(self, argv: list[bytes]) -> object:
        self.asked.append(argv)
        match argv[0]:
            case b"bytes":
                return bytes(int(argv[1]))
            case b"many":
                return [b"%d" % number for number in range(int(argv[1]))]
            case b"boom":
                raise RuntimeError("a bug")
            case b"mixed":
                return [1, b"x", None, [OK, Error("ERR inner")], 2.5, True, Map([(b"k", 1)]), SetOf([b"m"])]
            case b"map":
                return Map([(b"k", None), (b"n", 1.5)])
            case b"verbatim":
                return Verbatim("text")
            case b"big":
                return BigNumber(1 << 70)
            case b"integer":
                return int(argv[1])
        return Error("ERR Unknown Redis command called from script")

    def is_command(self, argv: list[bytes]) -> bool:
        return argv[0] == b"bytes"


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    yield Machine(MEMORY, TIME_LIMIT_S, "7.4.0", ["no-writes"])


def run(machine: Machine, text: str | bytes, run: Replies | None = None) -> object:
    source = text if isinstance(text, bytes) else text.encode()
    chunk = machine.compile(source, b"@user_script")
    return machine.run_script(chunk, [], [], run or Replies())


def message(reply: object) -> str:
    assert isinstance(reply, Failure), reply
    return reply.message.decode()


def check_alive(machine: Machine) -> None:
    assert run(machine, "return {redis.call('integer', '7'), ('x'):rep(3), cjson.encode({1})}") == [7, b"xxx", b"[1]"]
    assert not machine.is_spent
    assert machine.memory_used < MEMORY // 2


# -- escapes ----------------------------------------------------------------------------------------------------------

NOT_THERE = (
    "os", "io", "debug", "package", "require", "module", "dofile", "loadfile", "print", "python", "newproxy", "getfenv",
    "setfenv",
)  # fmt: skip


@pytest.mark.parametrize("name", NOT_THERE)
def test_global_that_would_lead_outside_is_not_there(machine: Machine, name: str) -> None:
    assert f"nonexistent global variable '{name}'" in message(run(machine, f"return {name}"))
    assert f"nonexistent global variable '{name}'" in message(run(machine, f"return loadstring('return {name}')()"))
    check_alive(machine)


@pytest.mark.parametrize(
    "text",
    [
        "foo = 1",
        "KEYS = {}",
        "string.x = 1",
        "redis.call = nil",
        "_G.x = 1",
        "rawset(_G, 'x', 1)",
        "rawset(redis, 'call', 1)",
        "setmetatable(_G, {})",
        "setmetatable(string, {})",
        "getmetatable('').__index = {}",
        "getmetatable(_G).__index = {}",
        "table.insert(redis, 1)",
        "cjson.encode = nil",
        "local f = loadstring('x = 1') f()",
    ],
)
def test_what_all_scripts_share_cannot_be_changed(machine: Machine, text: str) -> None:
    assert "Attempt to modify a readonly table" in message(run(machine, text))
    check_alive(machine)


def test_what_c_functions_leave_in_a_shared_table_is_gone_for_the_next_script(machine: Machine) -> None:
    assert run(machine, "table.sort(_G) return 1") == 1
    run(machine, "table.setn(redis, 1) table.remove(string)")
    leave = "local c = coroutine.wrap(function() return table.foreachi end)() return type(c)"
    assert run(machine, leave) == b"function"
    assert run(machine, "return {redis[1], _G.string ~= nil, next(redis) == nil}") == []
    check_alive(machine)


def test_settings_of_cjson_end_with_the_script(machine: Machine) -> None:
    assert run(machine, "cjson.encode_number_precision(3) return cjson.encode(1/3)") == b"0.333"
    assert run(machine, "return cjson.encode(1/3)") == b"0.33333333333333"


def test_no_value_that_a_script_can_reach_is_an_object_of_the_host(machine: Machine) -> None:
    walk = """
        local seen, found = {}, {}
        local function walk(value, path)
            local kind = type(value)
            if kind == 'userdata' and value ~= cjson.null then found[#found + 1] = path end
            if kind ~= 'table' or seen[value] then return end
            seen[value] = true
            for key, inner in pairs(value) do walk(inner, path .. '.' .. tostring(key)) end
            walk(getmetatable(value), path .. '!')
        end
        walk(_G, '_G') walk(getmetatable(''), 'string!')
        return found
    """
    assert run(machine, walk) == []


def test_error_of_the_host_reaches_a_script_as_text(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    assert run(machine, "local r = redis.pcall('boom') return {type(r.err), r.err}") == [
        b"string",
        b"ERR internal error",
    ]
    assert run(machine, "local ok, e = pcall(redis.call, 'boom') return {type(e), e}") == [
        b"string",
        b"ERR internal error",
    ]
    assert "a bug" in caplog.text


@pytest.mark.parametrize("text", [b"\x1bLua", b"\x1bLuaQ\0\1\4\x08\4\x08\0"])
def test_bytecode_is_not_loaded(machine: Machine, text: bytes) -> None:
    with pytest.raises(CompileError, match="bytecode"):
        machine.compile(text, b"@user_script")
    assert run(machine, b"return {loadstring('\\27Lua')}") == []
    assert run(machine, b"local dumped = string.dump(function() end) return loadstring(dumped)") is None


# -- time -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "while true do end",
        "for i = 1, 1e300 do end",
        "while true do pcall(function() while true do end end) end",
        "while true do pcall(redis.call, 'integer', 1) end",
        "xpcall(function() while true do end end, function() while true do end end)",
        "coroutine.wrap(function() while true do end end)()",
        "while true do coroutine.resume(coroutine.create(function() while true do end end)) end",
        "local function f() return f() end return f()",
        "return tostring(setmetatable({}, {__tostring = function() while true do end end}))",
        "setmetatable({}, {__gc = 1, __newindex = function() while true do end end}).x = 1",
        "table.sort({1, 2, 3}, function() while true do end end)",
        "('x'):gsub('x', function() while true do end end)",
        "for i = 1, 1e9 do collectgarbage() end",
        "load(function() while true do end end)",
        # What these three return is endless.
        "local t = {} for i = 1, 40 do t = {t, t} end return t",
        "local t = {} for i = 1, 40 do t = {t, t} end return cjson.encode(t)",
        "local t = {} for i = 1, 15 do t = {t, t, t, t, t, t} end return cmsgpack.pack(t)",
        # C functions that would match for years, or use up the C stack.
        "return (('a'):rep(40)):find(('a*'):rep(30) .. 'b')",
        "return (('a'):rep(30000)):match('.-.-.-b')",
        "return (('('):rep(300000)):find('%b()')",
        "return (('a'):rep(40)):gsub(('a?'):rep(40) .. ('a'):rep(41), '')",
        "for _ in (('a'):rep(60)):gmatch(('a-'):rep(30) .. 'b') do end",
    ],
)
def test_endless_script_is_ended_and_leaves_nothing_behind(machine: Machine, text: str) -> None:
    began = time.monotonic()
    reply = run(machine, text)
    assert "ran for longer than script_time_limit" in message(reply) or "not enough memory" in message(reply)
    # Two shared cores may stand still for seconds.
    assert time.monotonic() - began < 20
    check_alive(machine)


def test_time_is_over_for_the_whole_script_not_for_one_coroutine(machine: Machine) -> None:
    text = "local co = coroutine.create(function() while true do end end) coroutine.resume(co) while true do end"
    reply = run(machine, text)
    assert isinstance(reply, Failure) and reply.is_fatal
    check_alive(machine)


# -- memory and stacks ------------------------------------------------------------------------------------------------

FULL = "local t = {} pcall(function() while true do t[#t + 1] = {} end end) "


@pytest.mark.parametrize(
    "text",
    [
        "return ('x'):rep(1e9)",
        "local s = 'x' while true do s = s .. s end",
        "local t = {} while true do t[#t + 1] = {} end",
        "local t = {} while true do t['k' .. #t] = t t[#t + 1] = 1 end",
        "return table.concat({('x'):rep(1e6), ('x'):rep(1e6)}, ('y'):rep(6e6))",
        "return (('x'):rep(1e5)):gsub('x', ('y'):rep(1e5))",
        "return load(function() return 'x = 1 ' end)",
        "return string.format('%s%s', ('x'):rep(4e6), ('x'):rep(4e6))",
        "local s = ('x'):rep(2e6) local t = {} for i = 1, 100 do t[i] = s end return t",
        "return redis.call('bytes', 20000000)",
        "return redis.call('many', 60000)",
        "local t = {} for i = 1, 100 do t[i] = redis.call('bytes', 500000) .. i end",
        "return struct.pack('c0', ('x'):rep(5e6)):rep(5)",
        # With no memory left, everything that crosses to the host and back.
        FULL + "return redis.call('integer', 1)",
        FULL + "return redis.call('mixed')",
        FULL + "return redis.call('bytes', 100)",
        FULL + "return redis.sha1hex('x')",
        FULL + "return bit.tohex(5)",
        FULL + "return struct.unpack('s', 'abc')",
        FULL + "return cmsgpack.pack(1.5, 0.1)",
        FULL + "return redis.acl_check_cmd('nosuch')",
        FULL + "redis.setresp(3) math.random() redis.log(1, 'x') error('x')",
        FULL + "error({})",
        FULL + "return t",
        FULL + "while true do end",
        FULL + "coroutine.wrap(function() end)() error('x')",
        # Short strings make a large table of strings, which is resized at the worst moment.
        "local t = {} for i = 1, 60000 do t[i] = 'k' .. i end t = nil local s = {} for i = 1, 30 do "
        "s[i] = ('x'):rep(150000) .. i end for i = 1, 2000 do redis.call('bytes', 10) end error('done')",
    ],
)
def test_memory_bomb_ends_in_an_error(machine: Machine, text: str) -> None:
    assert message(run(machine, text)).startswith("ERR ")
    check_alive(machine)


@pytest.mark.parametrize(
    "text",
    [
        "local function f() return 1 + f() end return f()",
        "local function f() return coroutine.wrap(f)() end return f()",
        "local t = setmetatable({}, {__index = function(t, k) return t[k] end}) return t.x",
        "local function f() return pcall(f) and error('x') end f() error('x')",
        "return {unpack({}, 1, 1e7)}",
        "local function f() return ('x'):gsub('x', f) end return f()",
        "return ('a'):rep(100000):find(('a?'):rep(100000))",
        "error(loadstring('return ' .. ('('):rep(10000) .. '1' .. (')'):rep(10000)) or 'not compiled')",
        "local t = {} for i = 1, 20000 do t = {t} end return cjson.encode(t)",
        "return cjson.decode(('['):rep(100000))",
        "return cmsgpack.unpack(('\\145'):rep(100000))",
        "table.insert({}, -1e9, 1)",
    ],
)
def test_deep_recursion_ends_in_an_error(machine: Machine, text: str) -> None:
    assert message(run(machine, text)).startswith("ERR ")
    check_alive(machine)


def test_reply_without_end_ends_in_an_error(machine: Machine) -> None:
    reply = run(machine, "local t = {} t[1] = t return t")
    for _ in range(2000):
        if isinstance(reply, Error):
            break
        assert isinstance(reply, list)
        reply = reply[0]
    assert reply == Error("ERR reached lua stack limit")


def test_reply_that_waits_for_memory_is_fetched_after_collecting(machine: Machine) -> None:
    calls = Replies()
    text = "local s for i = 1, 30 do s = redis.call('bytes', 1000000) .. i end return #s"
    assert run(machine, text, calls) == 1000002
    # No command has run twice for it.
    assert len(calls.asked) == 30


def test_functions_that_keep_everything_make_the_machine_spent() -> None:
    machine = Machine(MEMORY, TIME_LIMIT_S, "7.4.0", ["no-writes"])
    text = b"local kept = {} redis.register_function('keep', function() while true do kept[#kept + 1] = {} end end)"
    loaded = machine.load_library(machine.compile(text, b"@user_function", True), 0.5)
    assert isinstance(loaded, list)
    for _ in range(3):
        if not machine.is_spent:
            assert message(machine.run_function(loaded[0].callback, [], [], Replies())).startswith("ERR ")
    assert machine.is_spent


# -- values -----------------------------------------------------------------------------------------------------------


def test_values_go_in_and_come_out_by_protocol(machine: Machine) -> None:
    assert run(machine, "return redis.call('mixed')") == [
        1, b"x", None, [OK, Error("ERR inner")], b"2.5", 1, [b"k", 1], [b"m"],
    ]  # fmt: skip
    three = run(machine, "redis.setresp(3) return redis.call('map')")
    assert three == Map([(b"n", 1.5)])
    assert run(machine, "redis.setresp(3) return redis.call('map').map.n.double * 2") == 3
    assert run(machine, "redis.setresp(3) return redis.call('verbatim')") == Verbatim("text")
    assert run(machine, "return redis.call('verbatim')") == b"text"
    assert run(machine, "redis.setresp(3) return redis.call('big')") == BigNumber(1 << 70)
    assert run(machine, "return redis.call('integer', '9007199254740993')") == 9007199254740992
    assert run(machine, "redis.setresp(3) return {true, false}") == [True, False]
    assert run(machine, "return {true, false, 1}") == [1, None, 1]


def test_null_of_resp3_makes_a_hole_that_ends_an_array(machine: Machine) -> None:
    assert run(machine, "redis.setresp(3) return redis.call('mixed')") == [1, b"x"]


@pytest.mark.parametrize(
    ("data", "reply"),
    [
        (b"_", None),
        (b":-5\n", -5),
        (b"$3\na\nb", b"a\nb"),
        (b"*0\n", []),
        (b"*2\n*1\n:1\n*0\n", [[1], []]),
        (b"%1\n$1\nk*1\n_", Map([(b"k", [None])])),
        (b"~2\n:1\n:2\n", SetOf([1, 2])),
        (b"+2\nOK", Status("OK")),
        (b"-5\nERR x", Error("ERR x")),
        (b",1.5\n", 1.5),
        (b"(3\n123", BigNumber(123)),
        (b"=7\nmkdtext", Verbatim("text", "mkd")),
    ],
)
def test_notation_of_results(data: bytes, reply: object) -> None:
    assert read_result(data, 2) == reply


def test_error_names_the_line_even_of_a_tail_call(machine: Machine) -> None:
    reply = run(machine, "\n\nreturn redis.call('nosuch')")
    assert isinstance(reply, Failure)
    assert reply.where == b"@user_script:3"


def test_tail_calls_of_local_functions_stay(machine: Machine) -> None:
    text = "local function count(n) if n == 0 then return 'done' end return count(n - 1) end return count(100000)"
    assert run(machine, text) == b"done"


def test_what_is_no_compiled_lua_is_left_alone() -> None:
    assert without_tail_calls(b"something else") == b"something else"


# -- patterns ---------------------------------------------------------------------------------------------------------


def test_slow_matcher_finds_what_the_fast_one_finds(machine: Machine) -> None:
    # The same call once as it is and once with so long a pattern (a tail that matches nothing) that C is not trusted.
    generator = random.Random(20)
    items = ["a", "b", ".", "%a", "%d", "[ab]", "[^a]", "%w", "(a)", "(b*)", "()", "%f[%w]", "%b()", "x"]
    marks = ["", "", "*", "+", "-", "?"]
    for _ in range(300):
        pattern = "".join(
            item + (generator.choice(marks) if item[0] != "(" and item[:2] not in ("%f", "%b") else "")
            for item in generator.choices(items, k=generator.randrange(1, 5))
        )
        if generator.random() < 0.3:
            pattern = "^" + pattern
        if generator.random() < 0.2:
            pattern += "$"
        subject = "".join(generator.choices("aabb1x()", k=generator.randrange(12)))
        # Items that match the empty string and nothing else, so many that C is not trusted with them.
        slow = pattern.removesuffix("$") + "z?" * 101 + ("$" if pattern.endswith("$") else "")
        for call in (
            "{s:find(p)}",
            "{s:match(p)}",
            "{s:gsub(p, '<%0>')}",
            "(function() local t = {} for a, b in s:gmatch(p) do t[#t + 1] = a .. tostring(b) end return t end)()",
        ):
            replies = [
                run(
                    machine,
                    f"local s, p = '{subject}', '{each}' local ok, r = pcall(function() return {call} end) return r",
                )
                for each in (pattern, slow)
            ]
            assert replies[0] == replies[1], (call, subject, pattern)


@pytest.mark.parametrize(
    "text", [b"return {" + b"{}," * 400_000 + b"}", b"x" * 5_000_000, b"return '" + b"y" * 2_000_000 + b"'"]
)
def test_text_that_is_too_large_is_refused_and_the_machine_lives(machine: Machine, text: bytes) -> None:
    try:
        chunk = machine.compile(text, b"@user_script")
    except CompileError as error:
        assert str(error)
    else:
        assert machine.run_script(chunk, [], [], Replies()) is not None
    del text
    check_alive(machine)
