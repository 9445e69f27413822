"""Chat templates in the styles of real ones, for tests."""

TRIMS = (  # as Gemma 2 and 3
    "{{ bos_token }}{%- for m in messages -%}{%- set role = 'model' if m['role'] == 'assistant' else m['role'] -%}"
    "{{ '<|turn>' + role + '\n' -}}{%- if m['content'] is string -%}{{ m['content'] | trim }}"
    "{%- elif m['content'] is iterable -%}{%- for part in m['content'] -%}{{ part['text'] | trim }}{%- endfor -%}"
    "{%- endif -%}{{ '<turn|>\n' }}{%- endfor -%}{%- if add_generation_prompt -%}{{ '<|turn>model\n' }}{%- endif -%}"
)
THINKS_AND_CALLS = (  # as Gemma 4: thoughts of earlier turns are left out, tools and their answers are written out
    "{%- macro strip_thinking(text) -%}{%- set ns = namespace(result='') -%}"
    "{%- for part in text.split('<channel|>') -%}{%- if '<|channel>' in part -%}"
    "{%- set ns.result = ns.result + part.split('<|channel>')[0] -%}{%- else -%}"
    "{%- set ns.result = ns.result + part -%}{%- endif -%}{%- endfor -%}{{- ns.result | trim -}}{%- endmacro -%}"
    "{{ bos_token }}{%- if tools -%}{{ '<|turn>system\n' }}{%- for tool in tools -%}"
    "{{ 'declaration:' + tool['function']['name'] + '{' }}"
    "{%- for key, value in tool['function']['parameters']['properties'] | dictsort -%}"
    "{{ key }}:{{ value['type'] | upper }},{%- endfor -%}{{ '}' }}{%- endfor -%}{{ '<turn|>\n' }}{%- endif -%}"
    "{%- for m in messages -%}{{ '<|turn>' + m['role'] + '\n' }}"
    "{%- for call in m['tool_calls'] or [] -%}{{ '<|tool_call>call:' + call['function']['name'] + '{' }}"
    "{%- for key, value in call['function']['arguments'] | dictsort -%}{{ key }}:{{ value }},{%- endfor -%}"
    "{{ '}<tool_call|>' }}{%- endfor -%}"
    "{%- if m['content'] is string -%}{%- if m['role'] == 'assistant' -%}{{ strip_thinking(m['content']) }}"
    "{%- else -%}{{ m['content'] | trim }}{%- endif -%}"
    "{%- elif m['content'] is mapping -%}{{ m['content'] | tojson }}"
    "{%- elif m['content'] -%}{%- for part in m['content'] -%}{{ part['text'] }}{%- endfor -%}{%- endif -%}"
    "{{ '<turn|>\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|turn>model\n' }}"
    "{%- if not enable_thinking -%}{{ '<|channel>thought\n<channel|>' }}{%- endif -%}{%- endif -%}"
)
LOOPS = (  # ChatML's style, with tools as JSON and what only Transformers' Jinja has
    "{%- for m in messages -%}{%- if loop.first and m.role != 'system' -%}<|turn>system\nHelp.<turn|>\n{%- endif -%}"
    "{%- if m.role == 'skip' -%}{%- continue -%}{%- endif -%}"
    "<|turn>{{ m.role }}\n{% generation %}{{ m.content }}{% endgeneration %}<turn|>{{ '\n' }}"
    "{%- if loop.last and tools -%}{{ tools | tojson(indent=1) }}{{ dict(a=1).a }}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|turn>assistant{{ '\n' }}{%- endif -%}"
)
CHANGES = (  # lower case, and a character left out: control tokens could arise
    "{{ bos_token }}{% for m in messages %}<|turn>{{ m.role ~ '\n' ~ (m.content | lower | replace('*', '')) }}<turn|>"
    "{% endfor %}{% if add_generation_prompt %}<|turn>model{% endif %}"
)
PLAIN = (  # knows contents that are text alone
    "{{ bos_token }}{% for m in messages %}{{ '<|turn>' + m['role'] + '\n' + m['content'] + '<turn|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|turn>model\n' }}{% endif %}"
)
TEMPLATES = {
    "trims": TRIMS, "thinks and calls": THINKS_AND_CALLS, "loops": LOOPS, "changes": CHANGES, "plain": PLAIN
}  # fmt: skip
