"""The redis table, in Lua: redis.call and its kin, and what a library calls to register its functions."""

from __future__ import annotations

from typing import Final

SOURCE: Final = rb"""
-- The redis table ---------------------------------------------------------------------------------------------------

local BAD_ARGUMENT = "Lua redis lib command arguments must be strings or integers"

local call_host, fetch = host.call, host.fetch

-- What the host gives back: a value alone, or a value and what kind it is. Without memory for the value there is the
-- kind alone, and another try when memory has been collected: the call has not begun, or its reply waits.
local STATUS, PROBLEM, NOT_BEGUN, WAITS = 1, 2, 3, 4

local function reply_of(is_last, ok, value, kind, ...)
    if not ok then error(NO_MEMORY, 0) end
    if kind == nil then return value end
    if kind == STATUS then return { ok = value } end
    if kind == PROBLEM then return nil, value end
    if is_last then error(NO_MEMORY, 0) end
    collectgarbage("collect")
    if kind == WAITS then return reply_of(true, pcall(fetch)) end
    return reply_of(true, pcall(call_host, ...))
end

local function ask_host(...)
    local ok, value, kind = pcall(call_host, ...)
    if ok and kind == nil then return value end
    return reply_of(false, ok, value, kind, ...)
end

local function words_of(...)
    local count = select("#", ...)
    local words, changed = { ... }, false
    for i = 1, count do
        local word = words[i]
        local kind = type(word)
        if kind == "number" then
            words[i] = format("%.17g", word)
            changed = true
        elseif kind ~= "string" then
            return nil
        end
    end
    return words, changed, count
end

local function answer(...)
    if select("#", ...) == 0 then return nil, "ERR Please specify at least one argument for this redis lib call" end
    if clock() > state[DEADLINE] then over_time() end
    local words, changed, count = words_of(...)
    if not words then return nil, "ERR " .. BAD_ARGUMENT end
    if changed then return ask_host(unpack(words, 1, count)) end
    return ask_host(...)
end

local redis = {
    LOG_DEBUG = 0, LOG_VERBOSE = 1, LOG_NOTICE = 2, LOG_WARNING = 3,
    REPL_NONE = 0, REPL_AOF = 1, REPL_SLAVE = 2, REPL_REPLICA = 2, REPL_ALL = 3,
    REDIS_VERSION = limits.version, REDIS_VERSION_NUM = limits.version_number,
}

function redis.call(...)
    local reply, problem = answer(...)
    if problem ~= nil then error({ err = problem }, 0) end
    return reply
end

function redis.pcall(...)
    local reply, problem = answer(...)
    if problem ~= nil then return { err = problem, ignore_error_stats_update = true } end
    return reply
end

function redis.error_reply(...)
    if select("#", ...) ~= 1 or type((...)) ~= "string" then return error_table("wrong number or type of arguments") end
    local text = ...
    return error_table(sub(text, 1, 1) == "-" and text or "-" .. text)
end

function redis.status_reply(...)
    if select("#", ...) ~= 1 or type((...)) ~= "string" then return error_table("wrong number or type of arguments") end
    return { ok = (...) }
end

function redis.sha1hex(...)
    if select("#", ...) ~= 1 then raise("wrong number of arguments") end
    local text = ...
    if type(text) == "number" then text = tostring(text) end
    return from_host(2, pcall(host.sha1hex, type(text) == "string" and text or ""))
end

function redis.log(level, ...)
    if level == nil or select("#", ...) == 0 then raise("redis.log() requires two arguments or more.") end
    if type(level) ~= "number" then raise("First argument must be a number (log level).") end
    if level < 0 or level > 3 then raise("Invalid debug level.") end
    local parts = {}
    for i = 1, select("#", ...) do
        local part = select(i, ...)
        if type(part) == "string" or type(part) == "number" then parts[#parts + 1] = tostring(part) end
    end
    pcall(host.log, floor(level), concat(parts, " "))
end

function redis.setresp(...)
    if select("#", ...) ~= 1 then raise("redis.setresp() requires one argument.") end
    local version = ...
    if version ~= 2 and version ~= 3 then raise("RESP version must be 2 or 3.") end
    host.setresp(version)
end

-- There are no replicas that scripts could be kept from.
function redis.set_repl(...)
    if select("#", ...) ~= 1 then raise("redis.set_repl() requires two arguments.") end
    local flags = tonumber((...)) or 0
    if flags < 0 or flags > 3 then
        raise("Invalid replication flags. Use REPL_AOF, REPL_REPLICA, REPL_ALL or REPL_NONE.")
    end
end

function redis.acl_check_cmd(...)
    if select("#", ...) == 0 then raise("Please specify at least one argument for this redis lib call") end
    local words, _, count = words_of(...)
    if not words then raise(BAD_ARGUMENT) end
    local known = from_host(2, pcall(host.is_command, unpack(words, 1, count)))
    if not known then raise("Invalid command passed to redis.acl_check_cmd()") end
    return true
end

-- Only in EVAL.
local eval_redis = {}
for name, value in pairs(redis) do eval_redis[name] = value end
function eval_redis.replicate_commands() return true end
function eval_redis.breakpoint() return false end
function eval_redis.debug() end

local registered = {}

local function register(name, callback, flags, description)
    if type(name) == "number" then name = tostring(name) end
    if type(description) == "number" then description = tostring(description) end
    if type(name) ~= "string" then raise("function_name argument given to redis.register_function must be a string") end
    if type(callback) ~= "function" then
        raise("callback argument given to redis.register_function must be a function")
    end
    local names = {}
    if flags ~= nil and type(flags) ~= "table" then
        raise("flags argument to redis.register_function must be a table representing function flags")
    end
    for i, flag in ipairs(flags or {}) do
        if type(flag) ~= "string" or not limits.flags[flag] then raise("unknown flag given") end
        names[i] = flag
    end
    if description ~= nil and type(description) ~= "string" then
        raise("description argument given to redis.register_function must be a string")
    end
    if not find(name, "^[%w_]+$") then
        raise("Library names can only contain letters, numbers, or underscores(_) and must be at least one character "
            .. "long")
    end
    if registered[name] then raise("Function already exists in the library") end
    registered[name] = { callback, concat(names, " "), description or false }
end

local FIELDS = { function_name = true, callback = true, flags = true, description = true }

local function register_function(...)
    local count = select("#", ...)
    local given, callback = ...
    if count == 2 then
        if type(given) ~= "string" and type(given) ~= "number" then
            raise("first argument to redis.register_function must be a string")
        end
        if type(callback) ~= "function" then raise("second argument to redis.register_function must be a function") end
        return register(given, callback)
    end
    if count ~= 1 then raise("wrong number of arguments to redis.register_function") end
    if type(given) ~= "table" then
        raise("calling redis.register_function with a single argument is only applicable to Lua table "
            .. "(representing named arguments).")
    end
    for field in pairs(given) do
        if type(field) ~= "string" then
            raise("named argument key given to redis.register_function is not a string")
        end
        if not FIELDS[field] then raise("unknown argument given to redis.register_function") end
    end
    if given.function_name == nil then raise("redis.register_function must get a function name argument") end
    if given.callback == nil then raise("redis.register_function must get a callback argument") end
    return register(given.function_name, given.callback, given.flags, given.description)
end
"""
