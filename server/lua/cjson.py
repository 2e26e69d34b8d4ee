"""The cjson library, in Lua: JSON as lua-cjson reads and writes it, down to the texts of its errors.

Settings (cjson.encode_number_precision and so on) hold for one run: what one script chooses concerns no other.
"""

from __future__ import annotations

from typing import Final

SOURCE: Final = rb"""
local reset_cjson
do
    local gsub, match, char = string.gsub, string.match, string.char
    local null = newproxy(false)
    local config

    reset_cjson = function()
        config = {
            sparse_convert = false, sparse_ratio = 2, sparse_safe = 10, encode_depth = 1000, decode_depth = 1000,
            precision = 14, keep_buffer = true, encode_invalid = false, decode_invalid = true,
        }
    end

    -- Writing -------------------------------------------------------------------------------------------------------

    local ESCAPES = { ['"'] = '\\"', ["\\"] = "\\\\", ["/"] = "\\/", ["\b"] = "\\b", ["\f"] = "\\f", ["\n"] = "\\n",
        ["\r"] = "\\r", ["\t"] = "\\t", ["\127"] = "\\u007f" }
    for code = 0, 31 do
        local c = char(code)
        ESCAPES[c] = ESCAPES[c] or format("\\u%04x", code)
    end

    local function quoted(text) return '"' .. gsub(text, '[%c"\\/]', ESCAPES) .. '"' end

    local function unable(what, reason) error(format("Cannot serialise %s: %s", what, reason), 0) end

    local function number_text(value)
        if value ~= value or value == huge or value == -huge then
            if config.encode_invalid == "null" then return "null" end
            if not config.encode_invalid then unable("number", "must not be NaN or Inf") end
        end
        return format("%." .. config.precision .. "g", value)
    end

    -- The length of an array, holes included; nil for anything else.
    local function array_length(t)
        local most, count = 0, 0
        for key in next, t do
            if type(key) ~= "number" or key < 1 or floor(key) ~= key then return nil end
            if key > most then most = key end
            count = count + 1
        end
        if config.sparse_ratio > 0 and most > count * config.sparse_ratio and most > config.sparse_safe then
            if not config.sparse_convert then unable("table", "excessively sparse array") end
            return nil
        end
        return most > 0 and most or nil
    end

    local write_json

    local function write_members(out, t, depth)
        out[#out + 1] = "{"
        local is_first = true
        for key, value in next, t do
            if not is_first then out[#out + 1] = "," end
            is_first = false
            local kind = type(key)
            if kind == "string" then
                out[#out + 1] = quoted(key)
            elseif kind == "number" then
                out[#out + 1] = '"' .. number_text(key) .. '"'
            else
                unable(kind, "table key must be a number or string")
            end
            out[#out + 1] = ":"
            write_json(out, value, depth)
        end
        out[#out + 1] = "}"
    end

    write_json = function(out, value, depth)
        local kind = type(value)
        if kind == "string" then
            out[#out + 1] = quoted(value)
        elseif kind == "number" then
            out[#out + 1] = number_text(value)
        elseif kind == "boolean" then
            out[#out + 1] = value and "true" or "false"
        elseif kind == "nil" or value == null then
            out[#out + 1] = "null"
        elseif kind == "table" then
            depth = depth + 1
            if depth > config.encode_depth then
                error(format("Cannot serialise, excessive nesting (%d)", depth), 0)
            end
            value = views[value] or value
            local length = array_length(value)
            if not length then return write_members(out, value, depth) end
            out[#out + 1] = "["
            for i = 1, length do
                if i > 1 then out[#out + 1] = "," end
                write_json(out, rawget(value, i), depth)
            end
            out[#out + 1] = "]"
        else
            unable(kind, "type not supported")
        end
    end

    -- Reading -------------------------------------------------------------------------------------------------------

    local text, size

    local function unexpected(wanted, found, at)
        error(format("Expected %s but found %s at character %d", wanted, found, at), 0)
    end

    local function utf8(code)
        if code < 0x80 then return char(code) end
        if code < 0x800 then return char(0xC0 + floor(code / 64), 0x80 + code % 64) end
        if code < 0x10000 then
            return char(0xE0 + floor(code / 4096), 0x80 + floor(code / 64) % 64, 0x80 + code % 64)
        end
        return char(0xF0 + floor(code / 262144), 0x80 + floor(code / 4096) % 64, 0x80 + floor(code / 64) % 64,
            0x80 + code % 64)
    end

    local PLAIN = { [98] = "\b", [102] = "\f", [110] = "\n", [114] = "\r", [116] = "\t", [34] = '"', [92] = "\\",
        [47] = "/" }

    -- The text of an escape whose backslash is at `at`, and where it ends; nil and what is wrong.
    local function escape_at(at)
        local plain = PLAIN[byte(text, at + 1)]
        if plain then return plain, at + 2 end
        if byte(text, at + 1) ~= 117 then return nil, "invalid escape code" end
        local digits = match(text, "^%x%x%x%x", at + 2)
        if not digits then return nil, "invalid unicode escape code" end
        local code = tonumber(digits, 16)
        if code >= 0xDC00 and code <= 0xDFFF then return nil, "invalid unicode escape code" end
        if code < 0xD800 or code > 0xDBFF then return utf8(code), at + 6 end
        local low = tonumber(match(text, "^\\u(%x%x%x%x)", at + 6) or "", 16)
        if not low or low < 0xDC00 or low > 0xDFFF then return nil, "invalid unicode escape code" end
        return utf8((code - 0xD800) * 1024 + low - 0xDC00 + 0x10000), at + 12
    end

    -- The string whose opening quote is at `at`, and the position behind it.
    local function string_at(at, wanted)
        local from, pieces = at + 1, nil
        while true do
            local stop = find(text, '["\\%z]', from)
            local c = stop and byte(text, stop)
            if not c or c == 0 then unexpected(wanted, "unexpected end of string", stop or size + 1) end
            if c == 34 then
                local last = sub(text, from, stop - 1)
                if not pieces then return last, stop + 1 end
                pieces[#pieces + 1] = last
                return concat(pieces), stop + 1
            end
            pieces = pieces or {}
            pieces[#pieces + 1] = sub(text, from, stop - 1)
            local plain, after = escape_at(stop)
            if not plain then unexpected(wanted, after, stop) end
            pieces[#pieces + 1] = plain
            from = after
        end
    end

    local function number_at(at, wanted)
        local found = match(text, "^-?0[xX]%x+", at)
        local after = found and at + #found
        if not found then
            found = match(text, "^[+-]?%d+%.?%d*", at)
            if not found then
                local sign, word = match(text, "^([+-]?)(%a+)", at)
                word = word and string.lower(word)
                if word and config.decode_invalid then
                    if sub(word, 1, 8) == "infinity" then return (sign == "-" and -1 or 1) * huge, at + #sign + 8 end
                    if sub(word, 1, 3) == "inf" then return (sign == "-" and -1 or 1) * huge, at + #sign + 3 end
                    if sub(word, 1, 3) == "nan" then return -(0 / 0), at + #sign + 3 end
                end
                unexpected(wanted, "invalid number", at)
            end
            after = at + #found
            local exponent = match(text, "^[eE][+-]?%d+", after)
            if exponent then
                found = found .. exponent
                after = after + #exponent
            end
        end
        if not config.decode_invalid and (find(found, "^-?0[xX%d]")) then unexpected(wanted, "invalid number", at) end
        local sign = 1
        if find(found, "^-0[xX]") then sign, found = -1, sub(found, 2) end
        return sign * tonumber(found), after
    end

    -- The kind of the token at the first position from `at` on that is no space, and that position.
    local NAMES = { [123] = "T_OBJ_BEGIN", [125] = "T_OBJ_END", [91] = "T_ARR_BEGIN", [93] = "T_ARR_END",
        [58] = "T_COLON", [44] = "T_COMMA", [34] = "T_STRING" }
    local WORDS = { { "^true", "T_BOOLEAN", true }, { "^false", "T_BOOLEAN", false }, { "^null", "T_NULL", null } }

    local function token_at(at)
        at = find(text, "[^ \t\r\n]", at) or size + 1
        local c = byte(text, at)
        if not c or (c == 0 and at == size) then return "T_END", at end
        local name = NAMES[c]
        if name then return name, at end
        if c == 43 or c == 45 or (c >= 48 and c <= 57) then return "T_NUMBER", at end
        for i = 1, 3 do
            local word = WORDS[i]
            if find(text, word[1], at) then return word[2], at, word[3] end
        end
        if config.decode_invalid and (c == 73 or c == 105 or c == 78 or c == 110) then
            local word = string.lower(sub(text, at, at + 2))
            if word == "inf" or word == "nan" then return "T_NUMBER", at end
        end
        return "invalid token", at
    end

    -- What a wrong token is called; a string or number is read to see whether it is one.
    local function wrong(wanted, name, at)
        if name == "T_STRING" then string_at(at, wanted) end
        if name == "T_NUMBER" then number_at(at, wanted) end
        unexpected(wanted, name, at)
    end

    local value_of

    local function deeper(depth, at)
        if depth > config.decode_depth then
            error(format("Found too many nested data structures (%d) at character %d", depth, at), 0)
        end
        return depth
    end

    local function array_at(at, depth)
        deeper(depth, at)
        local made, count = {}, 0
        local name, where, word = token_at(at + 1)
        if name == "T_ARR_END" then return made, where + 1 end
        while true do
            count = count + 1
            made[count], at = value_of(name, where, word, depth)
            name, where = token_at(at)
            if name == "T_ARR_END" then return made, where + 1 end
            if name ~= "T_COMMA" then wrong("comma or array end", name, where) end
            name, where, word = token_at(where + 1)
        end
    end

    local function object_at(at, depth)
        deeper(depth, at)
        local made = {}
        local name, where, word = token_at(at + 1)
        if name == "T_OBJ_END" then return made, where + 1 end
        while true do
            if name ~= "T_STRING" then wrong("object key string", name, where) end
            local key
            key, at = string_at(where, "object key string")
            name, where = token_at(at)
            if name ~= "T_COLON" then wrong("colon", name, where) end
            name, where, word = token_at(where + 1)
            made[key], at = value_of(name, where, word, depth)
            name, where = token_at(at)
            if name == "T_OBJ_END" then return made, where + 1 end
            if name ~= "T_COMMA" then wrong("comma or object end", name, where) end
            name, where, word = token_at(where + 1)
        end
    end

    value_of = function(name, at, word, depth)
        if name == "T_STRING" then return string_at(at, "value") end
        if name == "T_NUMBER" then return number_at(at, "value") end
        if name == "T_BOOLEAN" then return word, at + (word and 4 or 5) end
        if name == "T_NULL" then return null, at + 4 end
        if name == "T_OBJ_BEGIN" then return object_at(at, depth + 1) end
        if name == "T_ARR_BEGIN" then return array_at(at, depth + 1) end
        unexpected("value", name, at)
    end

    local function read_json()
        if size >= 2 and (byte(text, 1) == 0 or byte(text, 2) == 0) then
            error("JSON parser does not support UTF-16 or UTF-32", 0)
        end
        local name, at, word = token_at(1)
        local value
        value, at = value_of(name, at, word, 0)
        name, at = token_at(at)
        if name ~= "T_END" then wrong("the end", name, at) end
        return value
    end

    -- The library -----------------------------------------------------------------------------------------------------

    -- An error gets the position of whoever called encode or decode.
    local function settled(ok, ...)
        if ok then return ... end
        local problem = ...
        if type(problem) ~= "string" or problem == limits.too_long or problem == NO_MEMORY then error(problem, 0) end
        error(problem, 3)
    end

    local function encoded(value)
        local out = {}
        write_json(out, value, 0)
        return concat(out)
    end

    local function whole(name, number, value, least, most)
        value = tonumber(value)
        if not value then error(format("bad argument #%d to '%s' (number expected)", number, name), 3) end
        if value < least or value > most then
            error(format("bad argument #%d to '%s' (expected integer between %d and %d)", number, name, least, most), 3)
        end
        return floor(value)
    end

    local cjson = { null = null, _NAME = "cjson", _VERSION = "2.1.0" }

    function cjson.encode(...)
        if select("#", ...) ~= 1 then error("bad argument #1 to 'encode' (expected 1 argument)", 2) end
        return settled(pcall(encoded, (...)))
    end

    function cjson.decode(...)
        if select("#", ...) ~= 1 then error("bad argument #1 to 'decode' (expected 1 argument)", 2) end
        local given = ...
        if type(given) == "number" then given = tostring(given) end
        if type(given) ~= "string" then wrong_argument(1, "decode", "string", given) end
        text, size = given, #given
        return settled(pcall(read_json))
    end

    function cjson.encode_sparse_array(convert, ratio, safe)
        if convert ~= nil then config.sparse_convert = convert and true or false end
        if ratio ~= nil then config.sparse_ratio = whole("encode_sparse_array", 2, ratio, 0, 2147483647) end
        if safe ~= nil then config.sparse_safe = whole("encode_sparse_array", 3, safe, 0, 2147483647) end
        return config.sparse_convert, config.sparse_ratio, config.sparse_safe
    end

    local function depth_setting(name, field, most)
        return function(value)
            -- Every level is a call, and there is an end to those.
            if value ~= nil then config[field] = math.min(whole(name, 1, value, 1, 2147483647), most) end
            return config[field]
        end
    end
    cjson.encode_max_depth = depth_setting("encode_max_depth", "encode_depth", 10000)
    cjson.decode_max_depth = depth_setting("decode_max_depth", "decode_depth", 5000)

    function cjson.encode_number_precision(value)
        if value ~= nil then config.precision = whole("encode_number_precision", 1, value, 1, 14) end
        return config.precision
    end

    function cjson.encode_keep_buffer(value)
        if value ~= nil then config.keep_buffer = value and true or false end
        return config.keep_buffer
    end

    function cjson.encode_invalid_numbers(value)
        if value == "on" then value = true elseif value == "off" then value = false end
        if value ~= nil then config.encode_invalid = value end
        return config.encode_invalid
    end

    function cjson.decode_invalid_numbers(value)
        if value == "on" then value = true elseif value == "off" then value = false end
        if value ~= nil then config.decode_invalid = value and true or false end
        return config.decode_invalid
    end

    function cjson.new()
        local made = {}
        for name, member in pairs(cjson) do made[name] = member end
        return made
    end

    lib.cjson = cjson
    reset_cjson()
end
"""
