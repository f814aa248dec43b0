/** Where a command gets a password from: never its own words, which every user of the machine can read. */
import { OperationError } from '../base/errors.ts'
import { Secret, secretsEqual } from '../base/secret.ts'
import { readSecretInput, readSecretLine } from '../host/secret-file.ts'

/**
 * `file`: its first line; '-' or a pipe: the first line of standard input; a terminal: typed twice, unseen.
 * @throws {OperationError} those of readSecretLine; passwordsDiffer, cancelled
 */
export async function askPassword(file: string | undefined, whose: string): Promise<Secret> {
  if (file !== undefined && file !== '-') return await readSecretLine(file)
  if (file === '-' || process.stdin.isTTY !== true) return await readSecretInput(process.stdin)
  const first = await typed(`Password of ${whose}: `)
  const second = await typed('The same again: ')
  if (secretsEqual(first, second)) return first
  throw new OperationError('passwordsDiffer', 'the two passwords are not the same', 'Try again.')
}

const key = { enter: /[\r\n]/, interrupt: '\u0003', end: '\u0004', backspace: /[\u007f\b]/ }

/** A line of a terminal that shows nothing of it. */
async function typed(prompt: string): Promise<Secret> {
  const { stdin, stderr } = process
  stderr.write(prompt)
  stdin.setRawMode(true)
  stdin.setEncoding('utf8').resume()
  try {
    return await new Promise((resolve, reject) => {
      let text = ''
      const hear = (chunk: string): void => {
        for (const character of chunk) {
          if (key.backspace.test(character)) text = text.slice(0, -1)
          else if (!key.enter.test(character) && character !== key.interrupt && character !== key.end) text += character
          else {
            stdin.off('data', hear)
            if (character !== key.interrupt) resolve(new Secret(text))
            else reject(new OperationError('cancelled', 'nothing was changed', 'Start again when you have a password.'))
            return
          }
        }
      }
      stdin.on('data', hear)
    })
  } finally {
    stdin.setRawMode(false)
    stdin.pause()
    stderr.write('\n')
  }
}
