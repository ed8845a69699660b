#!/usr/bin/env python3
"""Render small templates with the real jinja2, set up as transformers sets it up, and write
tests/vectors/templates/snippets.json. Run: python3 tests/reference/jinja_snippets.py (jinja2 3.1).

Each snippet is a template over the one CONTEXT below; "expected": null means that Python raises."""
import datetime
import json
import os

import jinja2
import jinja2.ext
import jinja2.sandbox

CONTEXT = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi  <there> & \"you\"\n"},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "f", "arguments": {"a": 1, "b": [True, None, 2.5]}}}]},
        {"role": "tool", "content": "21\u00b0C", "tool_call_id": "c1"},
        {"role": "user", "content": [{"type": "text", "text": "see"}, {"type": "image"}]},
    ],
    "tools": [{"type": "function", "function": {"name": "get_weather", "description": "l'\u00e9t\u00e9 \"now\" <b>",
               "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer", "default": 1}}, "required": ["city"]}}}],
    "add_generation_prompt": True, "bos_token": "<s>", "eos_token": "</s>",
    "s": "Hello, World", "u": "h\u00e9llo \u4e16\u754c \U0001f917", "ws": " \t\n a b \u3000\n", "lines": "a\nb\r\nc\n\nd\n",
    "n": 7, "neg": -7, "f": 2.5, "big": 1e16, "tiny": 1e-05, "third": 0.1, "whole": 3.0, "zero": 0,
    "t": True, "x_false": False, "nothing": None, "empty": "", "el": [], "ed": {},
    "l": [3, 1, 2], "names": ["banana", "Apple", "cherry", "apple"], "mixed": [1, "a", None, 2.0, [1], {"k": 1}],
    "d": {"b": 2, "a": 1, "C": 3}, "deep": {"x": {"y": [{"z": 42}]}}, "keys": {"items": 5, "get": 6, "plain": 7},
    "users": [{"name": "bob", "age": 30, "tags": ["x"]}, {"name": "Al", "age": 25, "tags": []}, {"name": "cy", "age": 30}],
    "esc": "tab\t quote\" back\\ nl\n \x01 \x7f \u2028 '", "html": "<b>&\"'</b>",
}

E = lambda *a: list(a)  # expressions, printed between bars
EXPRESSIONS = E(
    # literals and printing
    "1", "1.0", "-0.0", "1_000", "0x1f", "0o17", "0b101", "1e3", "1.5e-7", "2e16", "1e22", "'a' 'b'", '"\\u00e9\\x41\\n\\t\\\\"', "'\\d'", "'\\101'",
    "true", "True", "none", "None", "[]", "{}", "()", "(1,)", "(1, 2)", "1, 2", "[1, 'a', none, true, 1.5]", "{'a': 1, 2: 'b', none: true}",
    "['it\\'s', 'say \"hi\"', 'both\\'\"']", "[u]", "[esc]", "mixed", "d", "big", "tiny", "third", "whole", "f", "third + 0.2", "1e100", "123456789012345.0", "1234567890123456789.0",
    "nothing", "missing", "[missing]", "s", "u",
    # arithmetic
    "7 // 2", "-7 // 2", "7 // -2", "7 % 3", "-7 % 3", "7 % -3", "-7.5 // 2", "7.5 % 2", "-7.5 % 2", "7.5 % -2", "7 / 2", "6 / 2", "2 ** 10", "2 ** -1", "2 ** 3 ** 2", "-2 ** 2", "2.0 ** 0.5",
    "1 + 2 * 3", "(1 + 2) * 3", "10 - 3 - 2", "n + f", "true + 1", "true + true", "'ab' * 3", "3 * 'ab'", "'ab' * -1", "[1] * 3", "[1] + [2]", "(1,) + (2,)", "'a' + 'b'",
    "1 / 0", "1 // 0", "1 % 0", "1.0 / 0", "'a' + 1", "1 + 'a'", "[1] + (2,)", "none + 1", "missing + 1", "1 - 'a'", "-'a'", "+true", "-n", "+f", "- -n", "-n|abs", "(-n)|abs",
    "1 ~ 2 ~ none ~ missing ~ 1.0 ~ true ~ [1]", "'a' ~ 1 + 2", "9223372036854775807",
    # comparison and logic
    "1 < 2", "1 < 2 < 3", "1 < 3 < 2", "1 == 1.0", "1 == true", "'a' < 'b'", "'a' < 'B'", "'1' == 1", "[1, 2] == [1, 2]", "[1, 2] < [1, 3]", "(1, 2) == [1, 2]", "{'a': 1, 'b': 2} == {'b': 2, 'a': 1}",
    "none == none", "missing == missing", "missing == none", "missing != 1", "1 < 'a'", "none < 1", "missing < 1", "[1] < ['a']", "u > s", "nothing is none == true",
    "1 and 2", "0 and 2", "'' or 'x'", "none or missing or 'd'", "not 0", "not not 'a'", "not missing", "1 if 0", "1 if 0 else 2", "1 if 1 else 2 if 1 else 3", "(1 if 0) is defined", "missing and missing.x",
    "2 in l", "5 in l", "2 not in l", "'ell' in s", "'' in s", "'a' in d", "1 in d", "'x' in missing", "missing in l", "1 in 'a'", "1 in 5", "'z' in deep.x.y[0]", "[1] in d", "not 1 in l", "none in mixed", "2 in mixed", "1.0 in l",
    # names, attributes, items
    "d.a", "d['a']", "d.zz", "d['zz']", "d.zz.y", "d.zz['y']", "d[missing]", "missing.x", "missing['x']", "missing[0]", "deep.x.y[0].z", "deep['x'].y.0.z", "keys.items", "keys['items']", "keys.plain", "keys.get('get')",
    "l[0]", "l[-1]", "l[9]", "l[9] is defined", "l['a']", "l.0", "l.foo", "s[0]", "s[-1]", "s[99]", "u[1]", "u[6]", "u[-1]", "n.foo", "n[0]", "nothing.x", "nothing['x']", "l[true]", "l[1.0]", "d[[1]]", "messages[-1].content[0].text",
    "l[:]", "l[1:]", "l[:-1]", "l[::-1]", "l[::2]", "l[-2:]", "l[5:]", "l[2:1]", "s[:5]", "s[-5:]", "s[::-1]", "s[::3]", "s[5:0:-2]", "u[1:3]", "u[::-1]", "u[-3:]", "(1,2,3)[1:]", "range(9)[2:5]", "l[none:none]", "l[:'a']", "n[1:]", "d[1:]", "missing[1:]", "nothing[1:]", "l[::0]", "l[-9:9]", "l[9:-9:-1]",
    # calls
    "range(3)", "range(3)|list", "range(1, 4)|list", "range(5, 0, -2)|list", "range(0)|list", "range(1, 10, 3)", "range(200000)|length", "range(1.5)", "dict(a=1, b='x')", "dict({'a': 1}, b=2)", "dict([('x', 1)])", "namespace(a=1).a", "namespace(a=1).b", "namespace({'q': 2}).q", "s()", "missing()", "missing.x()", "d.nope()", "raise_exception('no')", "strftime_now('%Y-%m-%d %H:%M:%S %d %b %B %A %j %%')", "strftime_now('')",
    # str methods
    "s.upper()", "s.lower()", "s.title()", "u.upper()", "u.title()", "'\u00df'.upper()", "s.swapcase()", "'hELLO wORLD'.capitalize()", "\"they're bill's\".title()", "\"they're bill's\"|title", "'foo-bar (baz) x3y'|title", "'foo-bar (baz) x3y'.title()",
    "ws.strip()", "ws.lstrip()", "ws.rstrip()", "ws|trim", "'xxaxx'.strip('x')", "'xyaxy'.lstrip('yx')", "'xyaxy'.rstrip('yx')", "'xxaxx'|trim('x')", "'a'.strip(none)", "s.strip(1)",
    "s.split()", "s.split(',')", "s.split(', ', 1)", "s.split('l')", "s.split('')", "ws.split()", "'a b c d'.split(none, 2)", "'a,b,c'.rsplit(',', 1)", "' a b  c '.rsplit(none, 1)", "' a  b c '.rsplit()", "'a,b,c'.split(sep=',')", "'a,b,c'.split(',', maxsplit=1)", "''.split()", "''.split(',')", "s.split(1)", "lines.splitlines()", "lines.splitlines(true)", "'a\\x0bb\\x0cc\\x1cd'.splitlines()",
    "s.startswith('He')", "s.startswith(('x', 'He'))", "s.endswith('ld')", "s.startswith('l', 2)", "s.endswith('Hello', 0, 5)", "s.startswith('')", "s.startswith(1)", "s.replace('l', 'L')", "s.replace('l', 'L', 2)", "s.replace('', '-')", "s.replace('l', 'L', count=1)", "u.replace('\u4e16', '!')", "s.replace('zz', 'y')",
    "s.find('o')", "s.find('o', 5)", "s.rfind('o')", "s.find('z')", "s.index('W')", "s.index('z')", "u.find('\u754c')", "s.count('l')", "s.count('')", "'aaaa'.count('aa')", "', '.join(['a', 'b'])", "', '.join([1])", "'-'.join('abc')", "s.partition(', ')", "s.rpartition('o')", "s.partition('z')", "s.rpartition('z')", "s.removeprefix('Hello')", "s.removesuffix('World')", "s.removeprefix('x')",
    "'5'.zfill(3)", "'-5'.zfill(4)", "'a'.ljust(3) ~ '|'", "'a'.rjust(3, '.')", "'ab'.center(7, '*')", "'ab'.center(5, '*')", "'abc'.center(6, '*')", "'a'.isdigit()", "'12'.isdigit()", "''.isdigit()", "'ab'.isalpha()", "'a1'.isalnum()", "' '.isspace()", "'aB'.islower()", "'AB1'.isupper()", "'12'.isnumeric()", "'\u00e9'.isascii()", "s.foo()", "s.upper(1)",
    "'{} and {}'.format(1, 'b')", "'{0}{1}{0}'.format('a', 'b')", "'{x}'.format(x=1)", "'{{}}'.format()", "'{}'.format()",
    "'%s is %d' % ('a', 3)", "'%s' % 1.0", "'%5.2f|%-5s|%05d|%x|%X|%o|%%' % (3.14159, 'ab', 42, 255, 255, 8)", "'%(a)s-%(b)s' % d", "'%s' % none", "'%r' % 'a'", "'%s %s' % (1,)", "'%s' % (1, 2)", "'%d' % 'a'", "'%.3s' % 'abcdef'", "'%c' % 65", "'%+d % d' % (1, 2)", "'%e' % 12345.678", "'%g' % 0.0001", "'%s' % [1]", "'%i' % 3.9",
    # dict, list methods
    "d.get('a')", "d.get('z')", "d.get('z', 5)", "d.keys()", "d.values()", "d.items()", "d.keys()|list", "d.items()|list", "d.items()|length", "d.keys()[0]", "ed.items()", "l.index(2)", "l.index(9)", "l.count(1)", "d.copy()", "(1, 2, 1).count(1)", "d.get()", "d.get(key='a')",
    # filters
    "s|upper", "s|lower", "'aBC dEF'|capitalize", "1|upper", "none|trim", "none|upper", "missing|upper", "missing|trim", "s|length", "u|length", "l|length", "d|length", "missing|length", "n|length", "none|length", "''|length", "range(4)|length", "l|count",
    "missing|default('x')", "missing|default", "''|default('x')", "''|default('x', true)", "none|default('x')", "none|d('x', boolean=true)", "missing.x|default('y')", "d.zz|default('y')", "0|default(5, true)",
    "l|first", "l|last", "el|first", "el|first is defined", "s|first", "s|last", "d|first", "d|last", "missing|first", "n|first", "l|join", "l|join(', ')", "l|join(1)", "users|join(', ', attribute='name')", "s|join('-')", "missing|join", "mixed|join('|')", "d|join(',')", "n|join",
    "l|sort", "l|sort(reverse=true)", "names|sort", "names|sort(case_sensitive=true)", "names|sort(reverse=true)", "users|sort(attribute='age')|map(attribute='name')|list", "users|sort(attribute='age,name')|map(attribute='name')|list", "users|sort(attribute='age', reverse=true)|map(attribute='name')|list", "mixed|sort", "d|sort", "s|sort", "el|sort", "[2.5, 1, true]|sort", "[[2, 'b'], [1, 'a'], [2, 'a']]|sort", "[none, 1]|sort",
    "d|dictsort", "d|dictsort(true)", "d|dictsort(by='value')", "d|dictsort(reverse=true)", "d|dictsort(false, 'value', true)", "d|dictsort(by='x')", "l|dictsort", "d|items|list", "missing|items|list", "l|items|list", "d|items|length", "d|list", "s|list", "missing|list", "n|list",
    "l|reverse|list", "s|reverse", "u|reverse", "l|unique|list", "names|unique|list", "names|unique(case_sensitive=true)|list", "[1, 1.0, true, 'a', 'A']|unique|list", "[[1], [1]]|unique|list", "l|min", "l|max", "names|min", "names|max(case_sensitive=true)", "el|max", "users|max(attribute='age')", "l|sum", "[1.5, 2]|sum", "users|sum(attribute='age')", "el|sum", "l|sum(start=10)", "names|sum",
    "users|map(attribute='name')|list", "users|map(attribute='zz')|list", "users|map(attribute='zz', default='-')|list", "users|map(attribute='tags.0', default='-')|list", "names|map('upper')|list", "names|map('replace', 'a', '4')|list", "l|map('string')|join('+')", "l|map('nope')|list", "users|map(attribute='name')", "[[1, 2], [3]]|map('length')|list", "[[1, 2], [3]]|map('first')|list", "[[1, 2], [3]]|map(attribute=0)|list", "names|map|list", "none|selectattr('x')|list", "0|map('upper')|list", "none|reject('nope')|list", "missing|map|list", "1|select|list", "none|unique|list", "none|batch(2)|list", "(l|reverse)|map('string')|join", "l|map('abs')|map('float')|list", "[(1, 2)]|map('last')|list", "el|map('string')|list|tojson",
    "l|select('odd')|list", "l|reject('odd')|list", "mixed|select|list", "mixed|reject('none')|list", "l|select('gt', 1)|list", "l|select('in', [1, 2])|list", "users|selectattr('tags')|map(attribute='name')|list", "users|selectattr('age', 'equalto', 30)|list|length", "users|selectattr('age', '==', 30)|map(attribute='name')|join(',')", "users|rejectattr('age', 'eq', 30)|map(attribute='name')|list", "users|selectattr('tags', 'defined')|list|length", "users|rejectattr('tags', 'undefined')|list|length", "messages|selectattr('role', 'in', ['user', 'tool'])|list|length", "l|select('nope')|list", "users|selectattr('age', 'equalto', 30)|length", "l|select('odd')|first", "l|select('odd')|last", "(l|select('odd'))[0]", "users|selectattr('name', 'string')|list|length", "l|selectattr('x')|list",
    "'3'|int", "' 42 '|int", "'3.7'|int", "'x'|int", "'x'|int(7)", "3.9|int", "-3.9|int", "none|int", "none|int(5)", "true|int", "[]|int", "'0x1f'|int(base=16)", "'1f'|int(0, 16)", "'1_000'|int", "'-5'|int", "'1e3'|int", "''|int", "'z'|int(base=36)", "missing|int", "'inf'|int", "'0x10'|int", "'0b11'|int(0, 2)", "'0o7'|int(0, 0)", "'010'|int",
    "'3'|float", "'1e3'|float", "'x'|float", "'x'|float(1.5)", "none|float", "1|float", "'inf'|float", "'nan'|float", "' 2.5 '|float", "'1_0.5'|float", "missing|float",
    "-3|abs", "(-3)|abs", "(-3.5)|abs", "'a'|abs", "true|abs", "2.5|round", "3.5|round", "2.675|round(2)", "42.55|round(1, 'ceil')", "42.55|round(1, 'floor')", "42|round", "42|round(-1)", "1234.5678|round(-2)", "2.4|round(method='ceil')", "'a'|round", "true|round", "45|round(-1)", "55|round(-1)",
    "s|replace('l', 'L')", "s|replace('l', 'L', 1)", "1231|replace(1, 'x')", "none|replace('N', 'n')", "s|replace('l')", "lines|indent", "lines|indent(2)", "lines|indent(2, true)", "lines|indent(2, first=true, blank=true)", "lines|indent('> ')", "''|indent(first=true)", "'a'|indent(2, true)", "n|indent",
    "html|escape", "html|e|e", "html|forceescape", "html|safe", "(html|safe) + '<i>'", "'<i>' + (html|safe)", "(html|safe) ~ '<i>'", "[html|safe]", "html|e|length", "html|e is escaped", "(html|safe)|upper", "(html|safe) is string", "1|string", "none|string", "1.0|string", "[1]|string", "missing|string",
    "s|center(20)", "s|truncate(5)", "'one two three four'|truncate(10)", "'one two three four'|truncate(10, true)", "'one two three four'|truncate(10, true, '!', 0)", "'one two three four'|truncate(16)", "'a' % [1]", "'a' % (1,)", "(html|safe).split('b')", "(html|safe).upper() + '<'", "s|wordcount", "5|truncate", "l|truncate(5)", "not (false|truncate)", "s|truncate(2)", "u|wordcount", "'a b/c?d=\u00e9&~'|urlencode", "'%s-%s'|format(1, 'b')", "'%(x)s'|format(x=2)", "l|batch(2)|list", "l|batch(2, '-')|list", "range(7)|slice(3)|list", "range(7)|slice(3, 'x')|list", "users|groupby('age')|list|length", "d|attr('items')", "d|attr('a')",
    "users|groupby('age')|map('first')|list", "users|groupby('tags', default=[])|list|length", "s|nope", "s|upper|nope", "s|default(1, 2, 3)", "s|upper(1)",
    # tojson
    "d|tojson", "mixed|tojson", "esc|tojson", "u|tojson", "u|tojson(ensure_ascii=true)", "html|tojson", "tools|tojson", "tools|tojson(indent=2)", "tools|tojson(indent=4)", "tools[0]|tojson(indent=0)", "tools[0]|tojson(indent='--')", "d|tojson(sort_keys=true)", "d|tojson(separators=(',', ':'))", "d|tojson(indent=1, separators=(';', '='))", "el|tojson(indent=2)", "ed|tojson(indent=2)", "[[], {}]|tojson(indent=2)", "[1, [2, [3]]]|tojson(indent=2)", "missing|tojson", "[missing]|tojson", "(1, 2)|tojson", "{1: 2, none: 3, true: 4, 1.5: 5}|tojson", "[big, tiny, third, whole, 1e100]|tojson", "'inf'|float|tojson", "'nan'|float|tojson", "d.items()|tojson", "d.items()|list|tojson", "range(3)|tojson", "namespace(a=1)|tojson", "nothing|tojson", "true|tojson", "'a'|tojson|tojson", "l|map('string')|tojson", "d|tojson(2)", "tools|tojson(false, 2)", "messages|tojson",
    # tests
    "missing is defined", "s is defined", "d.zz is defined", "d.a is defined", "missing is undefined", "nothing is none", "missing is none", "nothing is not none", "0 is none", "t is true", "1 is true", "x_false is false", "0 is false", "t is boolean", "1 is boolean", "1 is integer", "true is integer", "1.0 is integer", "1.0 is float", "1 is float", "1 is number", "true is number", "'1' is number", "s is string", "1 is string", "d is mapping", "l is mapping", "namespace() is mapping", "l is sequence", "s is sequence", "d is sequence", "n is sequence", "missing is sequence", "range(2) is sequence", "d.items() is sequence", "(l|map('string')) is sequence", "l is iterable", "s is iterable", "n is iterable", "d is iterable", "nothing is iterable", "missing is iterable", "(l|map('string')) is iterable", "d.items() is iterable",
    "range is callable", "s is callable", "s.upper is callable", "missing is callable", "3 is odd", "3 is even", "4 is divisibleby 2", "5 is divisibleby(2)", "'a' is odd", "1 is eq 1", "1 is equalto(2)", "1 is ne 2", "1 is lt 2", "1 is gt 2", "2 is ge 2", "2 is le 1", "1 is in [1]", "'a' is in 'abc'", "'a' is not in 'abc'", "1 is sameas 1", "1 is sameas 1.0", "none is sameas none", "l is sameas l", "'aB' is lower", "'ab' is lower", "'AB' is upper", "1 is lower", "'upper' is filter", "'nope' is filter", "'odd' is test", "s is nope", "s is string and n is number", "not s is string", "s is not string", "s is string == true", "d.a is defined and d.a == 1",
    "l is defined and l|length > 2", "messages[0].role == 'system' and messages[0]['content'] is string", "messages[2].tool_calls[0].function.arguments|tojson", "messages[2].content is none", "messages|length - 1", "messages|map(attribute='role')|join(' ')", "(messages|last).content is not string", "messages[1:]|length", "messages[::-1][0].role", "tools is not none and tools|length > 0", "tools[0].function.parameters.properties.items()|list|length", "tools[0].function.parameters.properties|length",
    "(1, 2)[0]", "{'a': [1, {'b': 2}]}.a[1].b", "[1, 2,]", "{'a': 1,}", "'a' if true else raise_exception('x')", "{'a': 1}['a']", "{{'a': 1}: 2}", "{'a': 1, 'a': 2}", "'a'.upper", "1 if", "(1", "[1", "1 +", "a b", "|upper", "1..x", "'abc", "{% x %}", "l[", "s.", "s|", "s is", "1 === 1", "$", "lambda x: x", "x = 1", "not", "1 not 2", "*l", "f(*l)", "dict(**d)", "dict(**{'q': 1}, z=2)", "range(*[1, 4])|list", "dict(a=1, a=2)", "s.upper(**{'x': 1})", "__import__('os')", "s.__class__", "s.__class__.__mro__", "d.__len__()", "d['__class__']", "s is string is string",
)

BLOCKS = E(
    # white space
    "a\n{% if true %}\nb\n{% endif %}\nc\n", "a\n  {% if true %}\n  b\n  {% endif %}\nc", "a {% if true %} b {% endif %} c", "a\n\n{%- if true -%}\n\n b \n{%- endif -%}\n\nc", "  {{ 1 }}  \n  {{- 2 -}}  \n 3", "  {%+ if true %}\nx\n  {%+ endif %}\ny", "{% if true +%}\nx{% endif %}", "a\n  {# note #}\nb", "a\n  {#- note -#}\n  b", "a {# x #} b", "x\n   {% set a = 1 %}   \ny", "  {% set a = 1 %}\n{{ a }}", "{{ 1 }}\n", "{{ 1 }}\n\n", "\n", "", "x\r\ny\rz\n{{ 'a\r\nb' }}", "{% if true %}a{% endif %}\n\n", "\t{% if true %}\tx\t{% endif %}\t", "text{%- if true %} a {%- endif %} b", "{% raw %}{{ x }}{% if %}{% endraw %}", "  {%- raw -%}  {{ x }}  {%- endraw -%}  z", "a\n{% raw %}\nb\n{% endraw %}\nc", "a\u00a0{%- if true %}x{% endif %}", "{{ '}}' }}{{ \"%}\" }}", "{{ {'a': {'b': 1}} }}", "{{'{{'}}", "{ {", "}}", "%}", "{{ 1 }", "{{", "{%", "{#", "{# {{ x }} #}y", "{{ 1 }}{# a #}\n{{ 2 }}", "  {% if true %}{{ 1 }}\n  {% endif %}x", "a  {%- set x = 1 +%}\n b", "{%if true%}x{%endif%}", "{%-if true-%} x {%-endif-%}", "{{1}}{{2}}", "a\n {%- for i in [1, 2] %}\n {{ i }}\n {%- endfor %}\n b",
    # if
    "{% if l %}a{% elif s %}b{% else %}c{% endif %}", "{% if el %}a{% elif s %}b{% else %}c{% endif %}", "{% if el %}a{% elif empty %}b{% else %}c{% endif %}", "{% if missing %}a{% endif %}", "{% if not missing %}a{% endif %}", "{% if (1, 2) %}a{% endif %}", "{% if 1 %}", "{% endif %}", "{% if %}a{% endif %}", "{% if 1 %}a{% else %}b{% else %}c{% endif %}", "{% if 1 if 0 else 1 %}a{% endif %}", "{% if l|length > 2 and l[0] == 3 %}a{% endif %}",
    # for
    "{% for x in l %}{{ x }},{% endfor %}", "{% for x in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }};{% endfor %}", "{% for x in l %}{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }};{% endfor %}", "{% for x in l %}{{ loop.previtem is defined }}{{ loop.nextitem is undefined }}{% endfor %}", "{% for x in l if x > 1 %}{{ loop.index }}/{{ loop.length }}:{{ x }} {{ loop.last }};{% endfor %}", "{% for x in el %}a{% else %}none{% endfor %}", "{% for x in l if x > 9 %}a{% else %}none{% endfor %}", "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}", "{% for k, v in d|items %}{{ k }}={{ v }};{% endfor %}", "{% for k in d %}{{ k }}{% endfor %}", "{% for c in u %}{{ c }}.{% endfor %}", "{% for x in missing %}a{% else %}b{% endfor %}", "{% for x in n %}{% endfor %}", "{% for x in none %}{% endfor %}", "{% for a, b in [[1, 2], (3, 4), 'xy'] %}{{ a }}{{ b }};{% endfor %}", "{% for a, b in [[1, 2, 3]] %}{% endfor %}", "{% for a, b in [1] %}{% endfor %}", "{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}",
    "{% for x in l %}{% if x == 1 %}{% break %}{% endif %}{{ x }}{% endfor %}", "{% for x in l %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% endfor %}", "{% for x in [1, 2] %}{% for y in [3, 4] %}{% if y == 4 %}{% break %}{% endif %}{{ x }}{{ y }};{% endfor %}{% endfor %}", "{% break %}", "{% for x in l %}{{ loop.cycle('a', 'b') }}{% endfor %}", "{% for x in [1, 1, 2, 2, 1] %}{{ loop.changed(x) }}{% endfor %}", "{% for x in [1, 2] %}{% for y in [1] %}{{ loop.index }}{{ loop.depth }}{% endfor %}{{ loop.index }}{{ loop.depth0 }}{% endfor %}", "{{ loop }}", "{% for x in l %}{% endfor %}{{ x }}", "{% for x in l %}{{ loop.nope }}{% endfor %}", "{% for x in range(3) %}{{ x }}{% endfor %}", "{% for x in [[1, [2, [3]]]] recursive %}{% for y in x %}{% if y is iterable %}({{ loop.depth }}){% else %}{{ y }}{% endif %}{% endfor %}{% endfor %}", "{% for x in [{'n': 1, 'c': [{'n': 2, 'c': []}]}] recursive %}[{{ x.n }}{{ loop.depth }}{{ loop(x.c) }}]{% endfor %}", "{% for x in l recursive %}{{ loop.index }}{% endfor %}", "{% for x in l %}{{ loop(l) }}{% endfor %}", "{% for x in 1, 2, 3 %}{{ x }}{% endfor %}", "{% for m in messages if m.role == 'user' %}{{ loop.index }}{% endfor %}", "{% for x in l|select('odd') %}{{ x }}{{ loop.last }}{% endfor %}",
    "{% set g = l|select('odd') %}{% for x in g %}{{ x }}{% endfor %}|{% for x in g %}{{ x }}{% endfor %}", "{% set g = l|map('string') %}{{ g|first }}{{ g|list }}{{ g|list }}", "{% set ns = namespace(stop=false) %}{% for x in l if not ns.stop %}{{ x }}{% if x == 1 %}{% set ns.stop = true %}{% endif %}{% endfor %}", "{% for x in l %}{% if loop.last %}end{% endif %}{% endfor %}",
    # set and scope
    "{% set x = 1 %}{{ x }}", "{% set x, y = 1, 2 %}{{ x }}{{ y }}", "{% set x = 1, 2 %}{{ x }}", "{% set (x, y) = 'ab' %}{{ y }}{{ x }}", "{% set x %}a{{ n }}b{% endset %}[{{ x }}]", "{% set x | upper %}abc{% endset %}{{ x }}", "{% set x | upper | replace('A', '4') %}abc{% endset %}{{ x }}", "{% set x = 1 %}{% for i in l %}{% set x = i %}{{ x }}{% endfor %}{{ x }}", "{% for i in l %}{{ x }}{% set x = i %}{{ x }};{% endfor %}", "{% set x = 1 %}{% if true %}{% set x = 2 %}{% endif %}{{ x }}", "{% set ns = namespace(x=1) %}{% for i in l %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }}", "{% set ns = namespace() %}{% set ns.a, ns.b = 1, 2 %}{{ ns.a + ns.b }}", "{% set d.x = 1 %}", "{% set missing.x = 1 %}", "{% set true = 1 %}", "{% set s = s ~ '!' %}{{ s }}", "{% if false %}{% set s = 'x' %}{% endif %}{{ s }}", "{% set x %}{% set y = 5 %}{{ y }}{% endset %}{{ x }}{{ y }}", "{% with a = 1, b = 2 %}{{ a + b }}{% endwith %}{{ a }}", "{% with %}{% set q = 1 %}{{ q }}{% endwith %}{{ q }}", "{% with a = 1 %}{% with a = 2, b = a %}{{ a }}{{ b }}{% endwith %}{{ a }}{% endwith %}", "{% set ns = namespace(l=[]) %}{% set ns.l = ns.l + [1] %}{% set ns.l = ns.l + [2] %}{{ ns.l }}", "{{ namespace(a=1, b='x') }}", "{% set ns = namespace(a=1) %}{% set ns['b'] = 2 %}", "{% set a = b = 1 %}", "{% set loop = 5 %}{% for x in [1] %}{{ loop.index }}{% endfor %}{{ loop }}", "{% filter upper %}a{{ s }}b{% endfilter %}", "{% filter replace('a', 'b')|upper %}aaa{% endfilter %}", "{% filter indent(2, true) %}a\nb{% endfilter %}",
    # macros
    "{% macro m(a, b=2) %}{{ a }}-{{ b }}{% endmacro %}{{ m(1) }} {{ m(1, 3) }} {{ m(b=5, a=4) }} {{ m() }}", "{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}", "{% macro m(a) %}{% endmacro %}{{ m(z=2) }}", "{% macro m(a) %}{% endmacro %}{{ m(1, a=2) }}", "{% macro m(a, b=a) %}{{ b }}{% endmacro %}{{ m(7) }}", "{% macro m() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, x=3) }}", "{% macro m(a=1, b) %}{% endmacro %}", "{% macro m() %}{{ s }}{% endmacro %}{{ m() }}", "{% set q = 1 %}{% macro m() %}{{ q }}{% endmacro %}{% set q = 2 %}{{ m() }}", "{% macro m() %}{{ i }}{% endmacro %}{% for i in l %}{{ m() }}{% endfor %}", "{% for i in l %}{% macro m() %}{{ i }}{% endmacro %}{{ m() }}{% endfor %}", "{% macro f(n) %}{% if n > 0 %}{{ n }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(5) }}", "{% macro m(x) %}{{ x|upper }}{% endmacro %}{% set y = m('a') %}{{ y ~ y }}{{ y|length }}{{ y is string }}", "{{ m() }}{% macro m() %}x{% endmacro %}", "{% macro m() %}a{% endmacro %}{{ m is callable }}{{ m.name }}", "{% macro m() %}[{{ caller() }}]{% endmacro %}{% call m() %}x{% endcall %}", "{% macro m() %}{% for i in l %}{{ caller(i, i * 2) }};{% endfor %}{% endmacro %}{% call(a, b) m() %}{{ a }}:{{ b }}{% endcall %}", "{% macro m() %}{{ caller is defined }}{% endmacro %}{{ m() }}", "{% macro m() %}{{ caller() }}{% endmacro %}{{ m() }}", "{% macro m(x) %}{% set y = x %}{{ y }}{% endmacro %}{{ m(1) }}{{ y }}", "{% macro inner(x) %}<{{ x }}>{% endmacro %}{% macro outer(x) %}{{ inner(x) }}{{ inner(x) }}{% endmacro %}{{ outer('a') }}", "{% macro m(a) %}{{ a is defined }}{% endmacro %}{{ m() }}", "{% macro m(a, b) %}{{ a }}{{ b }}{% endmacro %}{{ m(*[1, 2]) }}{{ m(**{'a': 3, 'b': 4}) }}", "{% macro m() %}\n  a\n{% endmacro %}{{ m() }}{{ m()|trim }}", "{% macro m() -%}\n  a\n{%- endmacro %}{{ m() }}", "{% if true %}{% macro m() %}x{% endmacro %}{% endif %}{{ m() }}", "{% macro loop() %}x{% endmacro %}{{ loop() }}",
    # generation marks, unknown statements
    "{% generation %}a{{ s }}{% endgeneration %}", "{% for m in messages %}{% generation %}{{ m.role }}{% endgeneration %}{% endfor %}", "{% nope %}", "{% do 1 %}", "{% endfor %}", "{% for x in l %}", "{% set x %}", "{% macro %}{% endmacro %}", "{% for in l %}{% endfor %}",
    # a whole small chat template
    "{{ bos_token }}{% for m in messages %}\n{% if m.role == 'system' %}\n[SYS] {{ m.content }}\n{% elif m.role == 'user' %}\n{% if m.content is string %}\n[USER] {{ m.content | trim }}\n{% else %}\n[USER] {% for p in m.content %}{% if p.type == 'text' %}{{ p.text }}{% else %}<{{ p.type }}>{% endif %}{% endfor %}\n\n{% endif %}\n{% elif m.tool_calls %}\n{% for c in m.tool_calls %}\n[CALL] {{ {'name': c.function.name, 'arguments': c.function.arguments} | tojson }}\n{% endfor %}\n{% else %}\n[{{ m.role | upper }}] {{ m.content }}\n{% endif %}\n{% endfor %}\n{% if add_generation_prompt %}\n[BOT] {% endif %}",
)


class Generation(jinja2.ext.Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_pass"), [], [], body).set_lineno(line)

    def _pass(self, caller):
        return caller()


def environment():
    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    env = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda f: datetime.datetime(2024, 7, 26, 12, 0, 0).strftime(f)
    return env


def render(env, template):
    try:
        return env.from_string(template).render(**CONTEXT)
    except Exception:  # whatever Python raises: the template fails
        return None


def main():
    env = environment()
    cases = []
    for t in ["|{{ %s }}|" % e for e in EXPRESSIONS] + BLOCKS:
        out = render(env, t)
        if out is not None and (" object at 0x" in out or "<built-in" in out or "<Macro" in out or "<generator" in out):
            continue  # shows an address
        cases.append({"template": t, "expected": out})
    here = os.path.dirname(os.path.abspath(__file__))
    path = os.path.join(here, "..", "vectors", "templates", "snippets.json")
    with open(path, "w") as f:
        f.write('{"note": "made by tests/reference/jinja_snippets.py with jinja2 %s",\n' % jinja2.__version__)
        f.write('"context": %s,\n"cases": [\n' % json.dumps(CONTEXT))
        f.write(",\n".join(json.dumps(c) for c in cases))
        f.write("\n]}\n")
    print(len(cases), "cases,", sum(c["expected"] is None for c in cases), "of them errors")


main()
