import fc from 'fast-check'
import { expect, test } from 'vitest'
import { errorNumber, Interpreter, type Result, type Step } from './interpret.ts'
import { commandsPerRunMax } from './limits.ts'
import { parse } from './parse.ts'

type World = Readonly<Record<string, (operands: readonly string[]) => Result>>

const fine: Result = { status: 0 }

/** What the script prints, and how it ends. Commands that `world` does not name succeed. */
function run(source: string, world: World = {}, settings: ReadonlyMap<string, string> = new Map()) {
  const interpreter = new Interpreter(parse(`#!ipxe\n${source}\n`), settings)
  const screen: string[] = []
  for (let turns = 0; turns <= commandsPerRunMax; turns++) {
    const step: Step = interpreter.next()
    if (step.kind === 'ended') return { screen, how: step.how, status: step.status, settings: interpreter.settings }
    if (step.effect.command === 'echo') screen.push(step.effect.operands.join(' '))
    interpreter.complete(world[step.effect.command]?.(step.effect.operands) ?? fine)
  }
  throw new Error('a run must end by itself')
}

// One rule of iPXE's src/core/exec.c or src/image/script.c each.
const rules: ReadonlyArray<[rule: string, source: string, screen: string[], how: string]> = [
  ['runs line by line', 'echo a\necho b', ['a', 'b'], 'finished'],
  ['&& after success', 'iseq a a && echo same', ['same'], 'finished'],
  ['|| after failure', 'iseq a b || echo differ', ['differ'], 'finished'],
  ['what was skipped leaves the status as it was', 'iseq a b && echo same || echo differ', ['differ'], 'finished'],
  ['; whatever came before', 'iseq a b ; echo go', ['go'], 'finished'],
  ['a line that fails ends the script', 'iseq a b\necho never', [], 'failed'],
  ['an empty command after || saves it', 'iseq a b ||\necho on', ['on'], 'finished'],
  ['an empty argument is still an argument', `iseq \${x} \${y} && echo both-unset`, ['both-unset'], 'finished'],
  ['isset wants something', `isset \${x} || echo unset`, ['unset'], 'finished'],
  ['a value with spaces is one word', `set x a b\niseq \${x} \${x} && echo \${x}`, ['a b'], 'finished'],
  ['a value is looked at again', `set x \${y}\nset y z\nset w $\nset v \${w}{y}\necho \${v}`, ['z'], 'finished'],
  ['goto finds the first label', 'goto b\n:a\necho a\n:b\necho b', ['b'], 'finished'],
  ['goto leaves the rest of its line', 'goto b || echo never\n:b', [], 'finished'],
  ['goto takes a setting', `set where end\ngoto \${where}\necho never\n:end echo here`, ['here'], 'finished'],
  ['goto nowhere fails', 'goto x || echo nowhere', ['nowhere'], 'finished'],
  ['exit ends it', 'exit\necho never', [], 'exit'],
  ['exit has a status', 'exit 1 || echo never', [], 'exit'],
  ['an unknown command fails', 'frobnicate || echo no', ['no'], 'finished'],
  ['an unknown option fails', 'echo -x a || echo no', ['no'], 'finished'],
  ['-- ends the options', 'echo -- -x', ['-x'], 'finished'],
  ['mac:hexhyp', `set mac 52:54:00:aa:bb:cc\necho \${mac:hexhyp}`, ['52-54-00-aa-bb-cc'], 'finished'],
  ['a:uristring', `set a x y/z\necho \${a:uristring}`, ['x%20y%2Fz'], 'finished'],
  ['inc counts', `set n:int32 1\ninc n\necho \${n}`, ['2'], 'finished'],
]

test.for(rules)('%s', ([, source, screen, how]) => {
  const outcome = run(source)
  expect(outcome.screen).toEqual(screen)
  expect(outcome.how).toBe(how)
})

test('errno is what the last failure was', () => {
  const { screen } = run(`sanboot x || set e \${errno:hexraw}\niseq a b ||\necho \${e}`, {
    sanboot: () => ({ status: 0x410d618f }),
  })
  expect(screen).toEqual(['410d618f'])
})

test('a chained script runs inside the first, which goes on with its status', () => {
  const world: World = { chain: () => ({ status: 0, script: '#!ipxe\necho inner\nexit 3' }) }
  const outcome = run(`chain http://x/ || echo status \${errno:hexraw}\necho after`, world)
  expect(outcome.screen).toEqual(['inner', 'status 00000003', 'after'])
})

test('a script that is replaced is not returned to', () => {
  const world: World = { chain: () => ({ status: 0, script: '#!ipxe\necho second' }) }
  expect(run('chain --replace http://x/ && echo never || echo never', world).screen).toEqual(['second'])
})

test('what a chain brings that is no script fails the chain', () => {
  const world: World = { chain: () => ({ status: 0, script: '<html>' }) }
  expect(run('chain http://x/ || echo no', world).screen).toEqual(['no'])
})

test('choose and login change settings', () => {
  const world: World = { choose: () => ({ status: 0, settings: new Map([['target', 'b']]) }) }
  expect(run(`menu Which\nitem a A\nitem b B\nchoose target\necho \${target}`, world).screen).toEqual(['b'])
})

test('a script that loops for ever, or chains itself for ever, is stopped', () => {
  expect(run(':a\ngoto a').how).toBe('runaway')
  const chains: World = { chain: () => ({ status: 0, script: '#!ipxe\nchain http://x/' }) }
  expect(run('chain http://x/', chains).how).toBe('runaway')
  const replaces: World = { chain: () => ({ status: 0, script: '#!ipxe\nchain --replace http://x/' }) }
  expect(() => run('chain --replace http://x/', replaces)).not.toThrow()
})

test('a value that contains itself ends', () => {
  const settings = new Map([['x', 'a${x}${x}']])
  expect(run(`echo \${x} || echo no`, {}, settings).how).toBe('finished')
})

test('whatever the script, the run ends within its bounds', () => {
  const fragment = fc.constantFrom(
    'echo a',
    ':a',
    ':b',
    'goto a',
    'goto b',
    'iseq a a',
    'iseq a b',
    '&&',
    '||',
    ';',
    'exit',
    'exit 1',
    'set x ${y}',
    'set y ${x}b',
    'chain http://x/',
    'chain --replace http://x/',
    'sanboot y',
    'isset ${x}',
    '\n',
    '\n',
    'inc x',
    'sleep 1',
    '${x}',
  )
  fc.assert(
    fc.property(fc.array(fragment, { maxLength: 25 }), fc.boolean(), (parts, works) => {
      const source = parts.join(' ')
      const outcome = run(source, {
        chain: () => (works ? { status: 0, script: `#!ipxe\n${source}` } : { status: errorNumber.usage }),
        sanboot: () => ({ status: works ? 0 : 1 }),
      })
      expect(['exit', 'finished', 'failed', 'runaway']).toContain(outcome.how)
    }),
    { numRuns: 300 },
  )
})
